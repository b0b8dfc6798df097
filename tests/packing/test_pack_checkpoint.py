"""Packing a checkpoint, measured on images."""

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.errors import ConfigError, RsquantError
from rsquant.made import Made
from rsquant.packed.file import open_packed
from rsquant.packing.pack_checkpoint import file_name, pack_checkpoint
from rsquant.quantizers.lq import LQWeightQuantizer
from rsquant.runs import Checkpoint


@pytest.fixture
def checkpoint(tmp_path, vary):
    torch.manual_seed(0)
    path = tmp_path / "n.safetensors"
    rsquant.save(vary(rsquant.create("resnet18", 2, 2, (48, 32), 12, width=8)), path)
    return Checkpoint(path, None)


def test_a_checkpoint_becomes_a_measured_file(checkpoint):
    lines = []
    outcome = pack_checkpoint(checkpoint, count=12, threads=1, echo=lines.append)
    assert outcome.result.path == checkpoint.path.parent / "resnet18_w2a2.rsq"
    assert open_packed(outcome.result.path).plan.network.resolutions == (48, 32)
    assert [row["resolution"] for row in outcome.rows] == [48, 32]
    for row in outcome.rows:
        assert row["images"] == 12
        # Generated images have no labels of this network.
        assert row["top1"] is row["packed_top1"] is None
        assert all(0 <= row[f"{name}_agreement"] <= 100 for name in ("trained", "grid"))
    assert "measured on 12 generated images" in lines[0]
    assert "is not in a run folder" in lines[0]


def test_labels_count_where_they_are_the_network_s(checkpoint):
    outcome = pack_checkpoint(checkpoint, count=12, data="shapes", threads=1)
    for row in outcome.rows:
        assert all(0 <= row[name] <= 100 for name in ("top1", "grid_top1", "packed_top1"))


def test_agreement_tells_the_trained_network_from_the_one_on_the_grid(tmp_path, vary):
    # A basis far off every integer one: moving it changes predictions, which the file follows.
    torch.manual_seed(0)
    network = vary(rsquant.create("resnet18", 3, 2, (32,), 12, width=8))
    for module in network.modules():
        if isinstance(module, LQWeightQuantizer):
            module.basis.copy_(module.basis * 0 + torch.tensor([0.002, 0.033, 0.41]))
    path = tmp_path / "n.safetensors"
    rsquant.save(network, path)
    (row,) = pack_checkpoint(Checkpoint(path, None), count=48, threads=1).rows
    assert row["trained_agreement"] < row["grid_agreement"]
    network = vary(rsquant.create("resnet18", 2, 2, (32,), 12, width=8, grid="coarse"))
    rsquant.save(network, path)
    (row,) = pack_checkpoint(Checkpoint(path, None), count=24, threads=1, exist_ok=True).rows
    assert row["trained_agreement"] == row["grid_agreement"]


def test_an_existing_file_is_kept(checkpoint, tmp_path):
    out = tmp_path / "mine.rsq"
    out.write_bytes(b"mine")
    with pytest.raises(RsquantError, match="exists already"):
        pack_checkpoint(checkpoint, out=out)
    assert out.read_bytes() == b"mine"
    pack_checkpoint(checkpoint, out=out, count=1, threads=1, exist_ok=True)
    assert out.stat().st_size > 1000
    assert not Made(tmp_path).owns(out)  # listed in run folders alone, where a new run removes it
    in_run = Checkpoint(checkpoint.path, tmp_path)
    pack_checkpoint(in_run, out=out, count=1, threads=1, exist_ok=True)
    assert Made(tmp_path).owns(out)


def test_files_are_named_after_the_network():
    network = rsquant.create("torchvision:mobilenet_v2", 4, 3, (64,), 5)
    assert file_name(network.spec) == "torchvision_mobilenet_v2_w4a3.rsq"


def test_a_grid_for_a_network_that_has_one_is_refused(tmp_path):
    path = tmp_path / "n.safetensors"
    rsquant.save(rsquant.create(RESNET10, 2, 2, (32,), 3, width=4, grid="coarse"), path)
    with pytest.raises(ConfigError, match=r"grid: .* was trained on the grid coarse and stays"):
        pack_checkpoint(Checkpoint(path, None), grid="fine")
    assert not list(tmp_path.glob("*.rsq"))
