"""Checkpoints come back equal, and damaged or foreign ones are refused in one line."""

import errno
import os

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import rsquant
from rsquant import atomic
from rsquant.errors import CheckpointError, ModelError, RsquantError
from rsquant.models import checkpoint


def small(arch="resnet18", wbits=2, abits=2, sizes=(64, 32), **more):
    torch.manual_seed(0)
    return rsquant.create(arch, wbits, abits, sizes, num_classes=3, width=4, **more)


@pytest.mark.parametrize("wbits,abits", [(2, 2), (2, 32), (32, 32), (1, 3)])
def test_a_network_comes_back_equal(tmp_path, wbits, abits):
    model = small(wbits=wbits, abits=abits)
    model.forward_all([torch.randn(4, 3, 64, 64), torch.randn(4, 3, 32, 32)])  # moves everything
    rsquant.save(model, tmp_path / "a.safetensors")
    again = rsquant.load(tmp_path / "a.safetensors")
    assert again.spec == model.spec
    assert again.resolutions == (64, 32)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(model.eval()(x), again(x))


def test_a_torchvision_network_comes_back_by_name(tmp_path):
    model = rsquant.create("torchvision:shufflenet_v2_x0_5", 2, 2, (64, 32), num_classes=3).eval()
    rsquant.save(model, tmp_path / "a.safetensors")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), rsquant.load(tmp_path / "a.safetensors")(x))


def test_a_converted_network_comes_back_into_its_own_kind(tmp_path):
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    model = rsquant.convert(network, 2, 2, (64, 32)).eval()
    path = tmp_path / "a.safetensors"
    rsquant.save(model, path)
    with pytest.raises(CheckpointError, match=r"build it again with rsquant.convert"):
        rsquant.load(path)
    with pytest.raises(
        CheckpointError, match=r"must be the result of rsquant.convert, got Shuffle"
    ):
        rsquant.load(path, body=network)
    other = rsquant.convert(torchvision.models.shufflenet_v2_x0_5(num_classes=3), 2, 2, (96, 48))
    with pytest.raises(CheckpointError, match=r"has resolutions \(64, 32\), the network given has"):
        rsquant.load(path, body=other)
    fresh = rsquant.convert(torchvision.models.shufflenet_v2_x0_5(num_classes=3), 2, 2, (64, 32))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), rsquant.load(path, body=fresh)(x))


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(small(), path)
    data = path.read_bytes()
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"is not a whole safetensors file \(truncated"):
            rsquant.load(path)


def test_a_missing_a_foreign_and_a_newer_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        rsquant.load(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="but not a rsquant-checkpoint file"):
        rsquant.load(tmp_path / "foreign.safetensors")
    checkpoint.write_tensors(
        tmp_path / "new.safetensors", {}, {"format": "rsquant-checkpoint", "version": 99}
    )
    with pytest.raises(CheckpointError, match="version 99, this rsquant reads version 1; update"):
        rsquant.load(tmp_path / "new.safetensors")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pickle.pt")  # a pickle is never unpickled
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        rsquant.load(tmp_path / "pickle.pt")


@pytest.mark.parametrize(
    "other,message",
    [({"arch": "resnet34"}, "lacks body.layer1.2"), ({"abits": 32}, "of another architecture"),
     ({"sizes": (64, 48, 32)}, r"is \(2, 4\), the network's is \(3, 4\)")],
)  # fmt: skip
def test_weights_of_another_architecture_are_refused(tmp_path, other, message):
    tensors = small().state_dict()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_into(small(**other), tensors, tmp_path / "a.safetensors")


@pytest.mark.parametrize("number,message", [(errno.ENOSPC, "the disk is full; free some space"),
                                            (errno.EACCES, "cannot be written")])  # fmt: skip
def test_a_failed_write_keeps_the_older_file_and_leaves_nothing_behind(
    tmp_path, monkeypatch, number, message
):
    path = tmp_path / "a.safetensors"
    rsquant.save(small(), path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(RsquantError, match=message):
        rsquant.save(small("resnet34"), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["body.bn1.running_mean", "body.fc.bias", "body.quantizer.basis"])
def test_what_is_not_finite_is_not_saved_and_an_older_file_stays(tmp_path, name):
    network, path = small(), tmp_path / "a.safetensors"
    rsquant.save(network, path)
    before = path.read_bytes()
    with torch.no_grad():
        network.state_dict()[name].view(-1)[0] = float("nan")
    with pytest.raises(ModelError, match=f"a.safetensors: not written, {name} has NaN values"):
        rsquant.save(network, path)
    assert path.read_bytes() == before


def test_checkpoints_from_before_grids_are_read(tmp_path):
    network, path = small(), tmp_path / "old.safetensors"
    rsquant.save(network, path)
    tensors, metadata = checkpoint.read_tensors(path, checkpoint.FORMAT, checkpoint.VERSION)
    del metadata["model"]["grid"]
    metadata["model"]["extra"] = {}
    checkpoint.write_tensors(path, tensors, metadata)
    assert rsquant.load(path).spec == network.spec
