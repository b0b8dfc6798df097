"""State dicts of others: what is read, and what is refused in one line."""

import pytest
import torch
from safetensors.torch import save_file

from rsquant.errors import CheckpointError
from rsquant.models.weights_file import read_weights

STATE = {"conv.weight": torch.ones(2, 2), "fc.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"epoch": 3, "state_dict": STATE},
        {"model": {f"module.{k}": v for k, v in STATE.items()}},
        {"ema": {"state_dict": {f"_orig_mod.module.{k}": v for k, v in STATE.items()}}},
        {"n_averaged": torch.tensor(1), **{f"module.{k}": v for k, v in STATE.items()}},
    ],
)
def test_state_dicts_are_found_and_unwrapped(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    assert read_weights(tmp_path / "x.safetensors").keys() == STATE.keys()


def test_pickled_objects_are_refused_without_running_them(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError,
        match=r"without running code: it holds a torch.nn.modules.linear.Linear; save",
    ):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_files_are_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK nothing of this is one")
    with pytest.raises(CheckpointError, match=f"{name}: is no complete"):
        read_weights(tmp_path / name)


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="has no state dict, but a dict with epoch"):
        read_weights(tmp_path / "x.pth")
