"""Checkpoints come back equal, and damaged or foreign ones are refused in one line."""

import dataclasses
import errno
import os

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import rsquant
from rsquant import atomic
from rsquant.errors import CheckpointError, ModelError, RsquantError
from rsquant.models import checkpoint
from rsquant.models.state_dict import load_into
from rsquant.packing.write import pack

pytestmark = pytest.mark.usefixtures("one_start")


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
        CheckpointError, match=r"must be the result of rsquant.convert or .*, got Shuffle"
    ):
        rsquant.load(path, into=network)
    other = rsquant.convert(torchvision.models.shufflenet_v2_x0_5(num_classes=3), 2, 2, (96, 48))
    with pytest.raises(CheckpointError, match=r"has resolutions \(64, 32\), the network given has"):
        rsquant.load(path, into=other)
    fresh = rsquant.convert(torchvision.models.shufflenet_v2_x0_5(num_classes=3), 2, 2, (64, 32))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), rsquant.load(path, into=fresh)(x))


class Tiny(nn.Module):
    def __init__(self, stride=1, eps=1e-5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.middle = nn.Conv2d(4, 4, 3, stride, bias=False)
        self.norm = nn.BatchNorm2d(4, eps)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.norm(self.middle(self.stem(x))).mean((2, 3)))


def tiny(stride=1, eps=1e-5, wbits=2, abits=2, **options):
    return rsquant.convert(Tiny(stride, eps), wbits, abits, (16, 12), **options)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"grid": "coarse"}, "has grid none, the network given has coarse"),
        ({"stride": 2}, r"middle has stride \[1, 1\], in the network given \[2, 2\]"),
        ({"eps": 1e-3}, "norm has eps 1e-05, in the network given 0.001"),
        (
            {"keep": ["stem", "fc", "middle"]},
            "middle has a quantized input in the checkpoint and not in the network given",
        ),
        (
            {"keep": ["stem"]},
            "fc has a quantized input in the network given and not in the checkpoint",
        ),
        ({"wbits": 3}, "has wbits 2, the network given has 3"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, options, message):
    path = tmp_path / "a.safetensors"
    rsquant.save(tiny(), path)
    rsquant.load(path, into=tiny())
    with pytest.raises(CheckpointError, match=message):
        rsquant.load(path, into=tiny(**options))


def test_a_normalisation_that_was_chosen_must_be_the_checkpoints(tmp_path):
    path = tmp_path / "a.safetensors"
    model = tiny()
    model.spec = dataclasses.replace(model.spec, mean=(0.5, 0.5, 0.5))
    rsquant.save(model, path)
    assert rsquant.load(path, into=tiny()).spec.mean == (0.5, 0.5, 0.5)
    other = tiny()
    other.spec = dataclasses.replace(other.spec, mean=(0.1, 0.1, 0.1))
    with pytest.raises(CheckpointError, match=r"has mean \(0.5, 0.5, 0.5\), the network given"):
        rsquant.load(path, into=other)


def test_another_stem_of_the_same_shapes_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(rsquant.create("resnet18", 2, 2, (32,), 2, width=8, stem="tiny"), path)
    other = rsquant.create("resnet18", 2, 2, (32,), 2, width=8, stem="small")
    with pytest.raises(CheckpointError, match="has stem tiny, the network given has small"):
        rsquant.load(path, into=other)


def test_signed_inputs_are_the_checkpoints(tmp_path):
    path = tmp_path / "a.safetensors"
    model = tiny()
    assert model.body.middle.input_quantizer.signed
    model.body.middle.input_quantizer.signed = False
    rsquant.save(model, path)
    assert not rsquant.load(path, into=tiny()).body.middle.input_quantizer.signed


@pytest.mark.parametrize("layers", [[], {"body.middle": 3}, "x"])
def test_a_damaged_description_of_the_layers_is_refused(tmp_path, layers):
    model = tiny()
    path = tmp_path / "a.safetensors"
    rsquant.save(model, path)
    tensors, metadata = checkpoint.read_tensors(path, checkpoint.FORMAT, checkpoint.VERSION)
    checkpoint.write_tensors(path, tensors, metadata | {"layers": layers})
    with pytest.raises(CheckpointError, match="description of the layers is damaged"):
        rsquant.load(path, into=tiny())


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(small(), path)
    data = path.read_bytes()
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(
            CheckpointError, match=r"is not a complete safetensors file \(truncated"
        ):
            rsquant.load(path)


def test_a_missing_a_foreign_and_a_newer_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        rsquant.load(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="but not a rsquant-checkpoint file"):
        rsquant.load(tmp_path / "foreign.safetensors")
    pack(small().eval(), tmp_path / "packed.rsq")
    with pytest.raises(CheckpointError, match=r"packed.rsq: is a packed file, where a checkpoint"):
        rsquant.load(tmp_path / "packed.rsq")
    checkpoint.write_tensors(
        tmp_path / "new.safetensors", {}, {"format": "rsquant-checkpoint", "version": 99}
    )
    with pytest.raises(CheckpointError, match=r"version 99, .* reads versions up to 2; update"):
        rsquant.load(tmp_path / "new.safetensors")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pickle.pt")  # a pickle is never unpickled
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        rsquant.load(tmp_path / "pickle.pt")


@pytest.mark.parametrize(
    "other,message",
    [
        ({"arch": "resnet34"}, "lacks body.layer1.2"),
        ({"abits": 32}, "has a different architecture"),
        ({"sizes": (64, 48, 32)}, r"is \(2, 4\), the network's is \(3, 4\)"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, other, message):
    tensors = small().state_dict()
    with pytest.raises(CheckpointError, match=message):
        load_into(small(**other), tensors, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "number,message",
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EACCES, "cannot be written")],
)
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


@pytest.mark.parametrize(
    "name",
    [
        "body.bn1.running_mean",
        "body.fc.bias",
        "body.layer1.0.act1.basis",
    ],
)
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


@pytest.mark.parametrize("abits", [2, 32])
def test_checkpoints_from_before_blocks_had_names_are_read(tmp_path, abits):
    block = "preact-bare" if abits == 2 else "post"
    model = rsquant.create("resnet18", 2, abits, (64, 32), width=4, num_classes=3, block=block)
    path = tmp_path / "old.safetensors"
    rsquant.save(model, path)
    tensors, metadata = checkpoint.read_tensors(path, checkpoint.FORMAT, checkpoint.VERSION)
    metadata["version"] = 1
    del metadata["model"]["block"]
    checkpoint.write_tensors(path, tensors, metadata)
    again = rsquant.load(path)
    assert again.spec.block == block
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))


class Versioned(nn.Module):
    """Changed the unit of its scale in version 2, and says so to `load_state_dict`."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.fc = nn.Linear(8, 3)
        self.loaded = []

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.loaded.append(local_metadata.get("version"))
        if local_metadata.get("version", 1) < 2:
            state_dict[prefix + "scale"] = state_dict[prefix + "scale"] * 100
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def forward(self, x):
        return self.fc(self.layers(x) * self.scale)


def test_modules_learn_the_version_of_the_state_they_load(tmp_path, monkeypatch):
    def make():
        return rsquant.convert(Versioned(), 2, 2, (32, 16))

    model, path = make(), tmp_path / "a.safetensors"
    nn.init.constant_(model.body.scale, 3.0)
    rsquant.save(model, path)
    again = rsquant.load(path, into=make())
    assert again.body.loaded == [2]
    assert again.body.scale.item() == 3
    # A file from before the change says so too.
    monkeypatch.setattr(Versioned, "_version", 1)
    rsquant.save(model, tmp_path / "old.safetensors")
    monkeypatch.setattr(Versioned, "_version", 2)
    assert rsquant.load(tmp_path / "old.safetensors", into=make()).body.scale.item() == 300
    # Files of earlier releases have no versions: the network's own are taken.
    tensors, metadata = checkpoint.read_tensors(path, checkpoint.FORMAT, checkpoint.VERSION)
    del metadata["versions"]
    checkpoint.write_tensors(path, tensors, metadata)
    assert rsquant.load(path, into=make()).body.scale.item() == 3


@pytest.mark.parametrize("name", ["mnasnet0_5", "mnasnet1_0"])
def test_mnasnets_come_back(tmp_path, name):
    torch.manual_seed(0)
    model = rsquant.create(f"torchvision:{name}", 2, 2, (64, 32), num_classes=3).eval()
    rsquant.save(model, tmp_path / "a.safetensors")
    x = torch.randn(1, 3, 64, 64)
    again = rsquant.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


class Extra(Versioned):
    def get_extra_state(self):
        return {"any": "thing"}


def test_a_state_that_is_no_tensor_is_refused_by_name(tmp_path):
    model = rsquant.convert(Extra(), 2, 2, (32,))
    with pytest.raises(CheckpointError, match=r"body\._extra_state is a dict, and checkpoints"):
        rsquant.save(model, tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_has_the_permissions_of_any_new_file_and_no_other_file_beside_it(tmp_path):
    for mask in (0o022, 0o027):
        before = os.umask(mask)
        try:
            checkpoint.write_tensors(tmp_path / "a", {"w": torch.zeros(3)}, {})
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
