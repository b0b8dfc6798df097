"""Several paths at one resolution: BatchNorms of their own, and the first one deployed."""

import numpy as np
import onnx
import pytest
import torch

import rsquant
from rsquant import runtime
from rsquant.errors import ModelError
from rsquant.packing.pack_checkpoint import pack_checkpoint
from rsquant.runs import Checkpoint


@pytest.fixture
def network(vary):
    torch.manual_seed(0)
    return vary(rsquant.create("resnet18", 2, 2, (32, 32, 32), 5, width=8))


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_each_path_uses_its_own_row(network):
    x = random(4, 3, 32, 32)
    logits = network.forward_all([x, x, x])
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])
    # Anything but forward_all uses the first, at every size.
    assert torch.equal(network(x), logits[0])
    with network.at(24):
        assert torch.equal(network(x), logits[0])


def test_each_path_learns_its_own_row(network):
    network.train()
    before = network.body.bn1.running_mean.clone()
    images = [random(4, 3, 32, 32) + shift for shift in (0, 1, 2)]
    sum(z.square().sum() for z in network.forward_all(images)).backward()
    moved = (network.body.bn1.running_mean - before).abs().sum(1)
    assert (moved > 0).all()
    assert (network.body.bn1.weight.grad.abs().sum(1) > 0).all()


def test_the_number_of_images_must_be_that_of_the_paths(network):
    with pytest.raises(ModelError, match=r"one batch per resolution \(32, 32, 32\)"):
        network.forward_all([random(2, 3, 32, 32)])


def test_what_is_deployed_is_the_first_path(network):
    x = random(2, 3, 32, 32)
    single = network.one_path_per_size()
    assert single.resolutions == single.spec.resolutions == (32,)
    assert network.resolutions == (32, 32, 32)
    assert single.body.bn1.weight.shape == (1, 8)
    assert torch.equal(single(x), network(x))
    distinct = rsquant.create("resnet18", 2, 2, (64, 32), 5, width=8)
    assert distinct.one_path_per_size() is distinct


def test_a_checkpoint_keeps_all_paths(network, tmp_path):
    rsquant.save(network, tmp_path / "a.safetensors")
    again = rsquant.load(tmp_path / "a.safetensors")
    assert again.resolutions == (32, 32, 32)
    x = random(2, 3, 32, 32)
    for expected, got in zip(network.forward_all([x] * 3), again.forward_all([x] * 3), strict=True):
        assert torch.equal(expected, got)


def test_a_packed_file_has_the_size_once(network, tmp_path):
    path = tmp_path / "a.safetensors"
    rsquant.save(network, path)
    outcome = pack_checkpoint(Checkpoint(path, None), count=8, threads=1)
    assert [row["resolution"] for row in outcome.rows] == [32]
    assert outcome.rows[0]["grid_agreement"] > 80
    session = runtime.load(outcome.result.path, threads=1, tune=False)
    assert session.resolutions == (32,)
    rsquant.pack(network.one_path_per_size(), tmp_path / "b.rsq")
    pixels = np.zeros((1, 3, 32, 32), np.uint8)
    twin = runtime.load(tmp_path / "b.rsq", threads=1, tune=False)
    np.testing.assert_array_equal(session(pixels), twin(pixels))


def test_an_exported_file_has_the_size_once(network, tmp_path):
    assert rsquant.export_onnx(network, tmp_path / "a.onnx", 32, form="codebook").passed
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert metadata["resolutions"] == "[32]"


def test_a_converted_network_may_have_paths_too():
    model = rsquant.create("torchvision:shufflenet_v2_x0_5", 32, 32, (64, 64), num_classes=3)
    assert len(model.forward_all([random(2, 3, 64, 64)] * 2)) == 2


def test_mobilenet_v2_packs_and_exports(tmp_path):
    torch.manual_seed(0)
    model = rsquant.create("mobilenet_v2", 2, 2, (32,), 5).eval()
    rsquant.pack(model, tmp_path / "a.rsq")
    assert runtime.load(tmp_path / "a.rsq", threads=1, tune=False).resolutions == (32,)
    assert rsquant.export_onnx(model, tmp_path / "a.onnx", 32, form="codebook").passed
