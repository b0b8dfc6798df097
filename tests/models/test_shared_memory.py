"""Tensors that share memory come back from checkpoints; those that cannot are refused by name."""

import copy

import pytest
import torch
from tiny_network import SIZES, Tiny, batches
from torch import nn

import rsquant
from rsquant.errors import CheckpointError
from rsquant.models.state_dict import load_into
from rsquant.models.tensor_file import read_tensors, write_tensors


def conv():
    return nn.Conv2d(8, 8, 3, padding=1)


def body():
    return Tiny(nn.Sequential(conv(), nn.BatchNorm2d(8), conv(), nn.BatchNorm2d(8)))


def tied_convolutions(network):
    network.middle[2].weight = network.middle[0].weight


def tied_batchnorms(network):
    network.middle[3].weight = network.middle[1].weight


def convolution_under_two_names(network):
    network.middle[2] = network.middle[0]


def batchnorm_under_two_names(network):
    network.middle[3] = network.middle[1]


def tied_linear(network):
    network.register_parameter("head", network.fc.weight)


def parameters_of_one_storage(network):
    """As views of one vector."""
    vector = torch.randn(2 * 576)
    for layer, part in zip((network.middle[0], network.middle[2]), vector.chunk(2), strict=True):
        layer.weight = nn.Parameter(part.view(8, 8, 3, 3))


def overlapping_slices(network):
    base = torch.arange(12.0)
    network.register_buffer("first", base[:4])
    network.register_buffer("second", base[2:6])
    network.bn.register_buffer("strided", base[1::3])


def not_contiguous(network):
    network.middle[0].weight = nn.Parameter(torch.randn(3, 3, 8, 8).permute(3, 2, 0, 1))
    network.register_buffer("turned", torch.randn(3, 4).t())


def channels_last(network):
    network.to(memory_format=torch.channels_last)


def without_elements(network):
    network.register_buffer("empty", torch.zeros(0, 3))
    network.register_buffer("other", torch.zeros(0))
    network.register_parameter("none", nn.Parameter(torch.zeros(0)))


def scalars(network):
    network.register_buffer("count", torch.tensor(3))
    network.register_buffer("same", network.count)
    network.register_parameter("scale", nn.Parameter(torch.tensor(0.5)))


def expanded(network):
    network.register_buffer("rows", torch.randn(1, 3).expand(4, 3))
    network.register_buffer("one", torch.tensor(2.0).expand(5))
    network.register_buffer("windows", torch.arange(8.0).unfold(0, 3, 1))


def of_many_dtypes(network):
    for dtype in (torch.bool, torch.uint16, torch.complex64, torch.float8_e4m3fn, torch.bfloat16):
        network.register_buffer(f"as_{dtype}".replace(".", "_"), torch.ones(3).to(dtype))
    network.register_buffer("conjugate", torch.ones(3, dtype=torch.complex64).conj())


KINDS = [
    tied_convolutions,
    tied_batchnorms,
    convolution_under_two_names,
    batchnorm_under_two_names,
    tied_linear,
    parameters_of_one_storage,
    overlapping_slices,
    not_contiguous,
    channels_last,
    without_elements,
    scalars,
    expanded,
    of_many_dtypes,
]


def sharing(state):
    """Pairs of names whose tensors are of one storage."""
    places = {name: t.untyped_storage().data_ptr() for name, t in state.items() if t.numel()}
    return {(a, b) for a in places for b in places if a < b and places[a] == places[b]}


@pytest.mark.parametrize("change", KINDS)
def test_a_network_comes_back_equal(change, tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        network = body()
        change(network)
        return rsquant.convert(network, 2, 2, SIZES)

    model, other = make(0), make(1)
    model.forward_all(batches())
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    rsquant.save(model.eval(), tmp_path / "a.safetensors")
    before = sharing(other.state_dict())
    again = rsquant.load(tmp_path / "a.safetensors", into=other)
    assert sharing(again.state_dict()) == before
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with torch.no_grad():
        assert torch.equal(model(batches()[0]), again(batches()[0]))


def test_tied_batchnorms_stay_tied_in_a_conversion():
    network = body()
    tied_batchnorms(network)
    network.middle[3].running_var = network.middle[1].running_var
    model = rsquant.convert(network, 2, 2, SIZES)
    one, other = model.body.middle[1], model.body.middle[3]
    assert one.weight is other.weight and one.running_var is other.running_var
    assert one.bias is not other.bias and one.running_mean is not other.running_mean
    names = [name for name, _ in model.named_parameters() if name.startswith("body.middle.3")]
    assert names == ["body.middle.3.bias"]


@pytest.mark.parametrize(
    "change,entry,line",
    [
        (tied_convolutions, "middle.2.weight", r"body\.middle\.0\.weight share memory"),
        (batchnorm_under_two_names, "middle.1.bias", r"body\.middle\.3\.bias and .* share memory"),
        (overlapping_slices, "second", r"body\.first share memory in the network given"),
        (expanded, "rows", r"repeats its elements in the network given \(expand\(\)\), and they"),
        (expanded, "one", "repeats its elements"),
        (expanded, "windows", "repeats its elements"),
    ],
)
def test_a_file_whose_entries_for_one_memory_differ_is_refused_by_name(
    change, entry, line, tmp_path
):
    network = body()
    change(network)
    model = rsquant.convert(network, 2, 2, SIZES)
    path = tmp_path / "a.safetensors"
    rsquant.save(model, path)
    tensors, metadata = read_tensors(path, "rsquant-checkpoint", 2)
    before = copy.deepcopy(model.state_dict())
    tensors[f"body.{entry}"].view(-1)[1] += 1
    write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=line) as error:
        rsquant.load(path, into=model)
    assert f"body.{entry}" in str(error.value)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_an_untied_network_does_not_load_into_a_tied_one(tmp_path):
    plain, tied = body(), body()
    tied_convolutions(tied)
    rsquant.save(rsquant.convert(plain, 2, 2, SIZES), tmp_path / "a.safetensors")
    line = r"middle\.2\.weight and body\.middle\.0\.weight share memory .* load it into a network"
    with pytest.raises(CheckpointError, match=line):
        rsquant.load(tmp_path / "a.safetensors", into=rsquant.convert(tied, 2, 2, SIZES))
    # The other way round nothing is lost.
    rsquant.save(rsquant.convert(tied, 2, 2, SIZES), tmp_path / "b.safetensors")
    model = rsquant.load(tmp_path / "b.safetensors", into=rsquant.convert(plain, 2, 2, SIZES))
    assert torch.equal(model.body.middle[0].weight, model.body.middle[2].weight)


@pytest.mark.parametrize(
    "value,line",
    [
        (
            torch.eye(3).to_sparse(),
            r"body\.own is sparse \(torch\.sparse_coo\), which checkpoints do",
        ),
        (
            torch.ones(3, dtype=torch.complex128),
            r"body\.own has the dtype torch\.complex128, which",
        ),
        (torch.ones(3, device="meta"), r"body\.own is on the meta device, without values, which"),
    ],
)
def test_tensors_that_a_file_cannot_hold_are_refused_by_name(value, line, tmp_path):
    model = rsquant.convert(body(), 2, 2, SIZES)
    model.body.register_buffer("own", value)
    with pytest.raises(CheckpointError, match=line):
        rsquant.save(model, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_a_module_says_is_missing_is_still_told(tmp_path):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", torch.ones(1).expand(3))

        def _load_from_state_dict(self, state, prefix, local, strict, missing, *more):
            super()._load_from_state_dict(state, prefix, local, strict, missing, *more)
            missing.append(f"{prefix}other")

    network = Strict()
    with pytest.raises(CheckpointError, match=r"does not accept its tensors: .*other"):
        load_into(network, {"rows": torch.zeros(3)}, tmp_path / "a")
