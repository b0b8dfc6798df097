"""Exporting a checkpoint: names, rows, images, and what is looked at before anything is written."""

import pytest
import torch

import rsquant
from rsquant import runs
from rsquant.config import RunConfig, dump_yaml
from rsquant.errors import DataError, ExportError, RsquantError
from rsquant.export.images import validation_images
from rsquant.export.run import export_checkpoint, file_name
from rsquant.nn import ModelSpec


@pytest.fixture
def checkpoint(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = runs.RUNS / "mine"
    folder.mkdir(parents=True)
    (folder / runs.CONFIG).write_text(dump_yaml(RunConfig()))
    rsquant.save(make(), folder / runs.BEST)
    return runs.resolve()


def test_all_sizes_are_exported_beside_the_checkpoint(checkpoint):
    lines, steps = [], []
    rows = export_checkpoint(checkpoint, (), count=4, echo=lines.append, step=steps.append)
    assert [r["resolution"] for r in rows] == [64, 48, 32]
    names = sorted(p.name for p in (checkpoint.run / "export").iterdir())
    assert names == [f"resnet18_w2a2_{size}.onnx" for size in (32, 48, 64)]
    assert all(r["passed"] and r["images"] == 4 for r in rows)
    assert lines == ["parity on 4 validation images of shapes"]
    assert len(steps) == 4


def test_nothing_is_written_when_one_size_or_file_is_wrong(checkpoint, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="40 was not trained"):
        export_checkpoint(checkpoint, (64, 40), out=out)
    assert not out.exists()
    out.mkdir()
    (out / "resnet18_w2a2_32.onnx").write_text("mine")
    with pytest.raises(RsquantError, match=r"resnet18_w2a2_32.onnx: exists already"):
        export_checkpoint(checkpoint, (), out=out)
    assert len(list(out.iterdir())) == 1


def test_files_of_converted_networks_have_plain_names():
    spec = ModelSpec("torchvision:mobilenet_v2", 2, 32, (96,), 10)
    assert file_name(spec, 96) == "torchvision_mobilenet_v2_w2a32_96.onnx"


def test_images_are_the_runs_own_and_generated_ones_where_those_cannot_be_had(checkpoint, make):
    spec = make().spec
    own = validation_images(spec, (48, 32), 5, checkpoint)
    assert own.source == "5 validation images of shapes"
    assert {size: tuple(x.shape) for size, x in own.at.items()} == {
        48: (5, 3, 48, 48), 32: (5, 3, 32, 32),
    }  # fmt: skip
    config = checkpoint.run / runs.CONFIG
    config.write_text(config.read_text().replace("source: shapes", "source: /nowhere"))
    other = validation_images(spec, (48,), 5, checkpoint)
    assert other.source.startswith("5 generated images (data: '/nowhere' is not a folder")
    assert torch.equal(other.at[48], own.at[48])
    assert validation_images(spec, (32,), 2).source == "2 generated images"


def test_a_source_that_was_named_must_open(checkpoint, make):
    with pytest.raises(DataError, match="'/nowhere' is not a folder"):
        validation_images(make().spec, (48,), 5, checkpoint, data="/nowhere")
