"""A training state is whole, or is refused in one line that names what is wrong."""

import json

import pytest
import torch
from torch import nn

import rsquant
from rsquant.errors import CheckpointError
from rsquant.models.tensor_file import read_tensors, write_tensors
from rsquant.train.state import TrainingState


def make():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    network = rsquant.convert(body, 2, 2, (12, 8))
    alpha = torch.ones(2, requires_grad=True)
    state = TrainingState(network, alpha, torch.optim.SGD([*network.parameters(), alpha], 0.1, 0.9))
    state.data = [10, 4, "a", "b"]
    return state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    state, path = make(), tmp_path_factory.mktemp("saved") / "s.safetensors"
    logits = state.model.forward_all([torch.randn(2, 3, 12, 12), torch.randn(2, 3, 8, 8)])
    (sum(x.sum() for x in logits) * state.alpha.sum()).backward()
    state.optimizer.step()
    state.epoch, state.step = 2, 3
    sums = {"images": 6, "seconds": 1.5, "loss": 2.5}
    state.progress = {"calibrated": 64, "best": 51.5, "sums": sums}
    state.save(path)
    return read_tensors(path, TrainingState.FORMAT, TrainingState.VERSION)


def load(path, tensors, metadata):
    write_tensors(path, tensors, metadata)
    state = make()
    state.load(path)
    return state


@pytest.mark.parametrize(
    "place,value,message",
    [
        (("layers",), 3, "description of the layers is damaged"),
        (("epoch",), -1, "'epoch' must be an integer from 0"),
        (("epoch",), "2", "'epoch' must be an integer"),
        (("epoch",), 2.5, "'epoch' must be an integer"),
        (("step",), True, "'step' must be an integer"),
        (("step",), 10**400, "'step' .* got a number of 1329 bits"),
        (("step",), 0, "'sums' go with a step above 0"),
        (("progress",), [["best", 1]], "progress must be an object"),
        (("progress", "best"), "high", "'best' must be a number"),
        (("progress", "best"), -3, "'best' must be a number in range"),
        (("progress", "sums"), 5, "progress.sums must be an object"),
        (("progress", "sums"), {"loss": 1}, "lacks 'images'"),
        (("progress", "sums", "images"), 1.5, "'images' must be an integer"),
        (("progress", "sums", "loss"), None, "'loss' must be a number"),
        (("progress", "calibrated"), {}, "'calibrated' must be an integer"),
        (("progress", "more"), 1, "unknown field 'more'"),
        (("momentum",), [99], "'momentum' must be an integer from 0"),
        (("momentum",), "all", "'momentum' must be a list"),
        (("versions",), 3, "versions of modules are damaged"),
        (("x" * 9000,), 3, "unknown field 'xxx"),
    ],
)
def test_a_wrong_field_is_refused_by_name(saved, tmp_path, place, value, message):
    metadata = json.loads(json.dumps(saved[1]))
    parent = metadata
    for step in place[:-1]:
        parent = parent[step]
    parent[place[-1]] = value
    with pytest.raises(CheckpointError, match=f"is damaged: .*{message}") as error:
        load(tmp_path / "s.safetensors", saved[0], metadata)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "name,tensor,message",
    [
        ("alpha", torch.ones(1), r"alpha is torch.float32 \(1,\)"),  # copy_ would broadcast it
        ("alpha", torch.ones(2, dtype=torch.int32), "alpha is torch.int32"),
        ("alpha", None, "lacks alpha"),
        ("rng", None, "lacks rng"),
        ("rng", torch.zeros(3, dtype=torch.uint8), "rng is torch.uint8"),
        ("rng", torch.zeros_like(torch.get_rng_state()), "is damaged"),
        ("rng_cuda", torch.ones(2), "rng_cuda is torch.float32"),
        ("momentum.0", None, "lacks momentum.0"),
        ("momentum.0", torch.ones(1), r"momentum.0 is torch.float32 \(1,\)"),
        ("momentum.99", torch.ones(1), "has momentum.99"),
        ("surplus", torch.ones(1), "has surplus"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(saved, tmp_path, name, tensor, message):
    tensors = {k: v for k, v in saved[0].items() if k != name}
    if tensor is not None:
        tensors[name] = tensor
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "s.safetensors", tensors, saved[1])


def test_a_whole_state_comes_back_and_so_does_one_that_does_not_list_its_momentum(saved, tmp_path):
    tensors, metadata = saved
    older = {k: v for k, v in metadata.items() if k not in ("momentum", "layers")}
    for fields in (metadata, older):
        state = load(tmp_path / "s.safetensors", tensors, fields)
        assert (state.epoch, state.step, state.progress) == (2, 3, metadata["progress"])
        first = state.optimizer.state[next(state.model.parameters())]["momentum_buffer"]
        assert torch.equal(first, tensors["momentum.0"])


def test_a_state_of_other_bits_is_refused_by_layer(saved, tmp_path):
    tensors, metadata = saved
    changed = json.loads(json.dumps(metadata))
    del changed["layers"]["body.1"]
    with pytest.raises(CheckpointError, match=r"the layer 1, .* config\.yaml has changed since"):
        load(tmp_path / "s.safetensors", tensors, changed)
