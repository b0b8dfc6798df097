"""Exported files: right at every size, plain to read, never half written."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import rsquant
from rsquant.errors import ExportError
from rsquant.export.onnx import export_onnx, to_onnx, write


def images(size, n=3):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x.numpy()})[0]


@pytest.mark.parametrize("arch,wbits,abits", [
    ("resnet18", 2, 32), ("resnet18", 2, 2), ("resnet18", 1, 1), ("resnet18", 3, 3),
    ("resnet18", 4, 4), ("resnet50", 2, 32), ("resnet50", 2, 2), ("resnet50", 32, 32),
])  # fmt: skip
def test_every_size_equals_the_network_in_onnxruntime(make, tmp_path, arch, wbits, abits):
    sizes = (64, 48, 32) if arch == "resnet18" else (48, 32)
    network = make(arch, wbits, abits, sizes)
    for size in sizes:
        path = tmp_path / f"{size}.onnx"
        parity = export_onnx(network, path, size, images(size))
        assert parity.passed and parity.wrong_codes == 0 and parity.images == 3
        assert parity.forced_error <= 1e-5
        assert parity.file_bytes == path.stat().st_size
        if abits == 32:
            assert parity.top1_agreement == 1.0
            with torch.no_grad():
                expected = network(images(size)).numpy()
            np.testing.assert_allclose(run(path, images(size)), expected, rtol=1e-4, atol=1e-5)
        onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5"])
def test_converted_networks_export(make, tmp_path, name):
    parity = export_onnx(make(f"torchvision:{name}", 2, 2, (64, 48)), tmp_path / "n.onnx", 48)
    assert parity.passed and parity.images == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "googlenet", "regnet_y_400mf", "efficientnet_b0"])
def test_more_converted_networks_export(make, tmp_path, name):
    assert export_onnx(make(f"torchvision:{name}", 2, 2, (64, 48)), tmp_path / "n.onnx", 48).passed


def test_the_graph_is_plain_and_what_stock_onnxruntime_loads(make, tmp_path):
    write(make("resnet18", 2, 32), tmp_path / "n.onnx", 48)
    model = onnx.load(tmp_path / "n.onnx")
    assert model.ir_version <= 10 and model.opset_import[0].version <= 21
    assert {o.domain for o in model.opset_import} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("images", "logits")
    shape = given.type.tensor_type.shape.dim
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [3, 48, 48]


def test_any_batch_size_runs_and_one_image_does_not_depend_on_the_others(make, tmp_path):
    write(make(), tmp_path / "n.onnx", 48)
    x = images(48, 5)
    alone = np.concatenate([run(tmp_path / "n.onnx", x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(run(tmp_path / "n.onnx", x), alone, rtol=1e-5, atol=1e-6)


def test_the_metadata_says_what_the_file_is(make, tmp_path):
    network = make()
    write(network, tmp_path / "n.onnx", 40)
    model = onnx.load(tmp_path / "n.onnx")
    said = {p.key: p.value for p in model.metadata_props}
    assert (said["arch"], said["wbits"], said["abits"]) == ("resnet18", "2", "2")
    assert said["resolution"] == "40" and json.loads(said["resolutions"]) == [64, 48, 32]
    assert json.loads(said["mean"]) == list(network.spec.mean)
    assert said["rsquant_version"] == rsquant.__version__


def test_a_size_that_was_not_trained_needs_interpolate(make, tmp_path):
    network = make()
    with pytest.raises(ExportError, match=r"40 was not trained \(trained: 64, 48, 32\)"):
        export_onnx(network, tmp_path / "n.onnx", 40)
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(network, tmp_path / "n.onnx", 40, interpolate=True).passed


def test_an_existing_file_is_kept_unless_told(make, tmp_path):
    path = tmp_path / "n.onnx"
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"exists already; --exist-ok"):
        export_onnx(make(), path, 48)
    assert path.read_text() == "mine"
    export_onnx(make(), path, 48, exist_ok=True)
    assert path.stat().st_size > 1000
    with pytest.raises(ExportError, match="is a folder"):
        export_onnx(make(), tmp_path, 48, exist_ok=True)


def test_a_folder_that_cannot_be_written_is_one_line(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written") as caught:
        export_onnx(make(), tmp_path / "file" / "n.onnx", 48)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_said_and_leaves_nothing(make, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ExportError, match="the disk is full"):
        export_onnx(make(), tmp_path / "n.onnx", 48)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_parity_leaves_no_file(make, tmp_path, monkeypatch):
    real = to_onnx

    def broken(network, resolution):
        with torch.no_grad():
            next(m for m in network.modules() if isinstance(m, torch.nn.Linear)).bias[2] += 0.1
        return real(network, resolution)

    monkeypatch.setattr("rsquant.export.onnx.to_onnx", broken)
    with pytest.raises(ExportError, match="parity failed at 48, nothing was kept: logits differ"):
        export_onnx(make(), tmp_path / "n.onnx", 48)
    assert list(tmp_path.iterdir()) == []


class Sorting(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x.flatten(1)).S


def test_a_network_that_onnx_cannot_say_is_refused_in_one_line():
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*svd") as caught:
        to_onnx(Sorting(), 8)
    assert "\n" not in str(caught.value)


def test_the_exporter_is_quiet(make, tmp_path, capfd):
    export_onnx(make(), tmp_path / "n.onnx", 48)
    assert capfd.readouterr() == ("", "")
