"""Exporting a checkpoint: names, rows, images, and what is looked at before anything is written."""

import dataclasses
import gc
import math
import weakref

import onnx
import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant import runs
from rsquant.config import RunConfig, dump_yaml
from rsquant.data.sources import open_source
from rsquant.errors import DataError, ExportError, RsquantError
from rsquant.evaluate.images import validation_images
from rsquant.export import onnx as onnx_files
from rsquant.export.export_checkpoint import export_checkpoint, file_name
from rsquant.export.onnx import Options
from rsquant.made import LIST, Made
from rsquant.nn import ModelSpec
from rsquant.nn.variant import at_variant
from rsquant.settings import Variant


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
    outcome = export_checkpoint(
        checkpoint,
        (),
        count=4,
        calibrate=6,
        echo=lines.append,
        step=steps.append,
        plan=lambda total: steps.append(total),
    )
    rows = outcome.rows
    assert [r["resolution"] for r in rows] == [64, 48, 32]
    names = sorted(p.name for p in (checkpoint.run / "export").iterdir() if p.name != LIST)
    assert names == [
        "resnet10_w2a2_int8.weights",
        *(f"resnet10_w2a2_int8_{size}.onnx" for size in (32, 48, 64)),
    ]
    assert sorted(p.name for p in outcome.files) == names
    assert outcome.bytes == sum(p.stat().st_size for p in outcome.files)
    assert all(r["passed"] and r["images"] == 4 for r in rows)
    assert all(r["float_bytes"] > r["file_bytes"] > 0 for r in rows)
    # Five classes, and the built-in set has twelve.
    assert all(r["top1"] is None for r in rows)
    assert lines == [
        "ranges of activations from 6 training images of shapes",
        "parity on 4 validation images of shapes",
    ]
    # As many as announced: the images, and two for each file.
    assert steps[0] == len(steps) - 1 == 7


def test_one_size_needs_no_other_file_and_a_single_file_is_one(checkpoint):
    outcome = export_checkpoint(checkpoint, (48,), count=2, calibrate=2)
    assert [p.name for p in outcome.files] == ["resnet10_w2a2_int8_48.onnx"]
    # A new run in this folder removes what is listed.
    assert Made(checkpoint.run / "export").owns(outcome.files[0])
    outcome = export_checkpoint(checkpoint, (), single_file=True, count=2)
    assert [p.name for p in outcome.files] == ["resnet10_w2a2_codebook_all.onnx"]
    assert [r["resolution"] for r in outcome.rows] == [64, 48, 32]
    assert len({r["file"] for r in outcome.rows}) == 1


def test_accuracy_is_given_where_the_labels_are_the_networks(checkpoint):
    network = rsquant.create(RESNET10, 2, 2, (48, 32), 12, width=8).eval()
    classes = open_source("shapes", train_images=1, val_images=1).classes
    network.spec = dataclasses.replace(network.spec, classes=classes)
    rsquant.save(network, checkpoint.path)
    (row,) = export_checkpoint(checkpoint, (48,), count=24, calibrate=2).rows
    images = validation_images(network.spec, (48,), 24, checkpoint)
    with torch.no_grad():
        best = network(images.at[48]).argmax(1)
    right = (best == images.labels).float().mean()
    assert row["top1"] == pytest.approx(100 * float(right))


def test_weights_that_other_files_need_are_not_replaced(checkpoint, tmp_path):
    out = tmp_path / "out"
    export_checkpoint(checkpoint, (), out=out, count=2, calibrate=2)
    kept = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ExportError, match=r"int8_32.onnx needs it unchanged; export all sizes"):
        export_checkpoint(checkpoint, (64, 48), options=Options(exist_ok=True), out=out, count=2)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == kept


def test_nothing_is_written_when_one_size_or_file_is_wrong(checkpoint, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="40 was not trained"):
        export_checkpoint(checkpoint, (64, 40), out=out)
    assert not out.exists()
    out.mkdir()
    (out / "resnet10_w2a2_int8_32.onnx").write_text("mine")
    with pytest.raises(RsquantError, match=r"resnet10_w2a2_int8_32.onnx: exists already"):
        export_checkpoint(checkpoint, (), out=out)
    assert len(list(out.iterdir())) == 1


def test_files_of_converted_networks_have_plain_names():
    spec = ModelSpec("torchvision:mobilenet_v2", 2, 32, (96,), 10)
    assert file_name(spec, "codebook", 96) == "torchvision_mobilenet_v2_w2a32_codebook_96.onnx"
    assert file_name(spec, "float", None) == "torchvision_mobilenet_v2_w2a32_float_all.onnx"


def test_images_are_the_runs_own_and_generated_ones_where_those_cannot_be_had(checkpoint, make):
    spec = make().spec
    own = validation_images(spec, (48, 32), 5, checkpoint)
    assert own.source == "5 validation images of shapes"
    assert {size: tuple(x.shape) for size, x in own.at.items()} == {
        48: (5, 3, 48, 48),
        32: (5, 3, 32, 32),
    }
    config = checkpoint.run / runs.CONFIG
    config.write_text(config.read_text().replace("source: shapes", "source: /nowhere"))
    other = validation_images(spec, (48,), 5, checkpoint)
    assert other.source.startswith("5 generated images (data: '/nowhere' is not a folder")
    assert torch.equal(other.at[48], own.at[48])
    assert validation_images(spec, (32,), 2).source == "2 generated images"


def test_a_source_that_was_named_must_open(checkpoint, make):
    with pytest.raises(DataError, match="'/nowhere' is not a folder"):
        validation_images(make().spec, (48,), 5, checkpoint, data="/nowhere")


@pytest.mark.parametrize("form", ["codebook", pytest.param("int8", marks=pytest.mark.slow)])
def test_all_widths_and_bits_read_the_same_codes(tmp_path, form):
    torch.manual_seed(0)
    given = {"resolutions": (32,), "num_classes": 5, "width": 8}
    network = rsquant.create(RESNET10, widths=(1.0, 0.5), bits=("4/2", "2/1"), **given)
    network.train()
    with torch.no_grad():
        network.forward_all([torch.randn(4, 3, 32, 32)])
    rsquant.save(network.eval(), tmp_path / "both.safetensors")
    checkpoint = runs.resolve(str(tmp_path / "both.safetensors"))
    options = Options(form=form)
    calibrate = 4 if form == "int8" else None
    # Every file is run in onnxruntime and compared with the network before it gets its name.
    outcome = export_checkpoint(checkpoint, (), options=options, count=2, calibrate=calibrate)
    settings = [(row["width"], row["bits"]) for row in outcome.rows]
    assert settings == [(1.0, "4/2"), (1.0, "2/1"), (0.5, "4/2"), (0.5, "2/1")]
    assert all(row["passed"] for row in outcome.rows)
    names = {path.name for path in outcome.files}
    assert f"resnet10_x0_5_w2a1_{form}_32.onnx" in names
    assert f"resnet10_x1_x0_5_w4a2_w2a1_{form}.weights" in names
    places: dict[str, set[str]] = {}
    for row in outcome.rows:
        for tensor in onnx.load(row["file"], load_external_data=False).graph.initializer:
            if tensor.name.endswith("/codes") and tensor.external_data:
                offset = next(e.value for e in tensor.external_data if e.key == "offset")
                places.setdefault(tensor.name, set()).add(offset)
    assert len(places) > 5 and all(len(of) == 1 for of in places.values())
    one = export_checkpoint(
        checkpoint,
        (32,),
        options=Options(form=form, width=0.5, bits=(2, 1)),
        count=2,
        calibrate=calibrate,
        out=tmp_path / "one",
    )
    assert [path.name for path in one.files] == [f"resnet10_x0_5_w2a1_{form}_32.onnx"]
    narrow = export_checkpoint(
        checkpoint,
        (),
        options=Options(form=form, width=0.5),
        count=2,
        calibrate=calibrate,
        out=tmp_path / "narrow",
    )
    assert [(row["width"], row["bits"]) for row in narrow.rows] == [(0.5, "4/2"), (0.5, "2/1")]
    for row in narrow.rows:
        cut = at_variant(network, Variant(0.5, (4, 2)))
        largest = {f"{n}/codes": w.numel() for n, w in cut.body.named_parameters()}
        for tensor in onnx.load(row["file"], load_external_data=False).graph.initializer:
            if tensor.name.endswith("/codes"):
                assert math.prod(tensor.dims) <= largest[tensor.name.removeprefix("network.")]


def test_the_graph_of_one_file_at_a_time_is_in_memory(make, tmp_path, monkeypatch):
    graphs, original = [], onnx_files.make

    def watched(*given):
        gc.collect()
        assert not any(graph() for graph in graphs)
        made = original(*given)
        graphs.append(weakref.ref(made))
        return made

    monkeypatch.setattr(onnx_files, "make", watched)
    files = {size: tmp_path / f"{size}.onnx" for size in (64, 48, 32)}
    onnx_files.export_files(make(), files, Options("codebook"), weights=tmp_path / "w.weights")
    assert len(graphs) == 3


def test_codes_of_a_form_without_codes_are_refused(checkpoint):
    with pytest.raises(ExportError, match="compat: is for weights as codes, form float has none"):
        export_checkpoint(checkpoint, (), options=Options("float", compat=True))
    assert not (checkpoint.run / "export").exists()


def test_calibration_of_a_form_without_ranges_is_refused(checkpoint):
    with pytest.raises(ExportError, match="calibrate: is for the ranges of form int8, form float"):
        export_checkpoint(checkpoint, (), options=Options("float"), calibrate=6)
    assert not (checkpoint.run / "export").exists()
