"""Exported files: right at every size, plain to read, never half written."""

import copy
import hashlib
import itertools
import json

import narrow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import rsquant
from rsquant.data.transforms import evaluation_crop, normalise
from rsquant.errors import ConfigError, ExportError
from rsquant.export import forms
from rsquant.export.graph import to_onnx
from rsquant.export.onnx import Material, Options, export_files, export_onnx, export_switchable


def images(size, n=3):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x.numpy()})[0]


def assert_rounding(got, expected):
    """Equal up to the order of float32 sums.

    A sum of n products in another order differs by about sqrt(n) 2**-24 of its size: 1.4e-6 for the
    576 that a ResNet of width 8 has at most; 50 layers in a row add up as sqrt(50), to 1e-5 of the
    largest logit. (Measured: 1e-6.)
    """
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def said(path):
    return {p.key: p.value for p in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    "arch,wbits,abits,sizes",
    [
        ("resnet10", 2, 32, (64, 48, 32)),
        ("resnet10", 2, 2, (48, 32)),
        ("resnet10", 1, 1, (32,)),
        ("resnet10", 3, 3, (32,)),
        ("resnet10", 4, 4, (32,)),
        ("resnet14", 2, 32, (32,)),
        ("resnet14", 2, 2, (48, 32)),
        pytest.param("resnet50", 2, 2, (48, 32), marks=pytest.mark.slow),
        ("resnet14", 32, 32, (48, 32)),
    ],
)
def test_every_size_equals_the_network_in_onnxruntime(make, tmp_path, arch, wbits, abits, sizes):
    network = make(arch, wbits, abits, (64, 48, 32))
    exact = ["float", "codebook"] if wbits < 32 else ["float"]
    for size, form in itertools.product(sizes, exact):
        path = tmp_path / f"{form}_{size}.onnx"
        parity = export_onnx(network, path, size, images(size), form=form)
        assert parity.passed and parity.wrong_codes == 0 and parity.images == 3
        assert parity.forced_error <= 1e-5
        assert parity.file_bytes == path.stat().st_size
        if abits == 32:
            assert parity.top1_agreement == 1.0
            with torch.no_grad():
                expected = network(images(size)).numpy()
            assert_rounding(run(path, images(size)), expected)
        onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize(
    "wbits,abits,expected",
    [
        (2, 2, "int8"),
        (2, 32, "codebook"),
        (32, 2, "float"),
        (32, 32, "float"),
    ],
)
def test_auto_takes_the_form_that_suits_the_bits(make, tmp_path, wbits, abits, expected):
    path = tmp_path / "n.onnx"
    export_onnx(make("resnet10", wbits, abits), path, 48, images(48))
    assert said(path)["form"] == expected


def test_auto_is_exact_without_images_to_calibrate_on(make, tmp_path):
    export_onnx(make(), tmp_path / "n.onnx", 48)
    assert said(tmp_path / "n.onnx")["form"] == "codebook"
    with pytest.raises(ExportError, match="form int8: needs images to calibrate on, got none"):
        export_onnx(make(), tmp_path / "m.onnx", 48, form="int8")
    export_onnx(make(), tmp_path / "m.onnx", 48, form="int8", calibration=images(48))
    assert said(tmp_path / "m.onnx")["calibration"] == "given images"


@pytest.mark.parametrize(
    "bits,form,single,message",
    [
        ((32, 32), "codebook", False, "has 32-bit weights, which have no codes; `form='float'`"),
        ((32, 32), "int8", False, "has 32-bit weights"),
        ((2, 2), "int8", True, "it cannot be a single file; leave out `single_file=True`"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused(make, tmp_path, bits, form, single, message):
    network = make("resnet10", *bits)
    with pytest.raises(ExportError, match=message):
        if single:
            export_switchable(network, tmp_path / "n.onnx", Options(form))
        else:
            export_onnx(network, tmp_path / "n.onnx", 48, form=form)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_form_is_named(make, tmp_path):
    with pytest.raises(ConfigError, match="form: must be one of auto, codebook, int8, float, got"):
        export_onnx(make(), tmp_path / "n.onnx", 48, form="int4")


@pytest.mark.parametrize("form", ["codebook", "int8"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2"])
def test_converted_networks_export(vary, tmp_path, name, form):
    torch.manual_seed(0)
    network = vary(rsquant.convert(narrow.NETWORKS[name](), 2, 2, (64, 48)))
    parity = export_onnx(network, tmp_path / "n.onnx", 48, images(48), form=form)
    assert parity.passed and parity.images == 3


@pytest.mark.slow
@pytest.mark.parametrize("form", ["codebook", "int8"])
@pytest.mark.parametrize(
    "name", ["densenet121", "googlenet", "regnet_y_400mf", "efficientnet_b0", "shufflenet_v2_x0_5"]
)
def test_more_converted_networks_export(make, tmp_path, name, form):
    network = make(f"torchvision:{name}", 2, 2, (64, 48))
    assert export_onnx(network, tmp_path / "n.onnx", 48, images(48, 8), form=form).passed


def test_the_float_form_is_plain_and_what_old_onnxruntimes_load(make, tmp_path):
    export_onnx(make("resnet10", 2, 32), tmp_path / "n.onnx", 48, form="float")
    model = onnx.load(tmp_path / "n.onnx")
    assert model.ir_version <= 10 and model.opset_import[0].version <= 21
    assert {o.domain for o in model.opset_import} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("images", "logits")
    shape = given.type.tensor_type.shape.dim
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [3, 48, 48]


@pytest.mark.parametrize("form", ["codebook", "int8"])
def test_any_batch_size_runs_and_one_image_does_not_depend_on_the_others(make, tmp_path, form):
    x = images(48, 5)
    export_onnx(make(), tmp_path / "n.onnx", 48, x, form=form)
    alone = np.concatenate([run(tmp_path / "n.onnx", x[i : i + 1]) for i in range(5)])
    assert_rounding(run(tmp_path / "n.onnx", x), alone)


def test_the_metadata_says_what_the_file_is(make, tmp_path):
    network = make()
    export_onnx(network, tmp_path / "n.onnx", 40, images(40), interpolate=True)
    found = said(tmp_path / "n.onnx")
    assert (found["arch"], found["wbits"], found["abits"]) == ("resnet10", "2", "2")
    assert found["resolution"] == "40" and json.loads(found["resolutions"]) == [64, 48, 32]
    assert json.loads(found["mean"]) == list(network.spec.mean)
    assert found["rsquant_version"] == rsquant.__version__
    assert (found["form"], found["calibration"]) == ("int8", "the parity's images")
    assert found["input"].startswith("images: (N, 3, H, W) float32")
    assert "weights" not in found


@pytest.mark.parametrize("bits", [(2, 32), (2, 2)])
def test_files_of_all_sizes_share_their_codes_and_can_be_moved_together(make, tmp_path, bits):
    network = make("resnet10", *bits)
    folder = tmp_path / "out"
    files = {size: folder / f"{size}.onnx" for size in (64, 48, 32)}
    material = Material(calibration={size: images(size) for size in files})
    parities = export_files(network, files, material=material, weights=folder / "shared.weights")
    assert all(p.passed for p in parities.values())
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["32.onnx", "48.onnx", "64.onnx", "shared.weights"]
    # Two bits a weight, once for all sizes: every code tensor lies in the shared file.
    content = (folder / "shared.weights").read_bytes()
    for size in files:
        proto = onnx.load(files[size], load_external_data=False)
        codes = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.UINT2]
        large = [t for t in codes if np.prod(t.dims) >= 1024]
        assert large and all(t.external_data for t in large)
        assert said(files[size])["weights_sha256"] == hashlib.sha256(content).hexdigest()
    before = run(files[48], images(48))
    folder.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(run(tmp_path / "elsewhere/48.onnx", images(48)), before)


def test_a_single_file_takes_every_size_and_says_so(make, tmp_path):
    network = make("resnet10", 2, 32)
    path = tmp_path / "n.onnx"
    parities = export_switchable(network, path, material=Material({64: images(64), 32: images(32)}))
    assert list(parities) == [64, 32] and all(p.passed for p in parities.values())
    assert said(path)["resolution"] == "any" and said(path)["form"] == "codebook"
    for height, width in ((64, 64), (32, 32), (40, 40), (48, 80)):
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = network(x).numpy()
        assert_rounding(run(path, x), expected)


@pytest.mark.parametrize("form,abits", [("codebook", 32), ("int8", 2)])
def test_preprocessing_in_the_file_is_that_of_the_evaluation(make, tmp_path, form, abits):
    network = make("resnet10", 2, abits)
    plain, path = tmp_path / "plain.onnx", tmp_path / "n.onnx"
    export_onnx(network, plain, 48, images(48), form=form)
    export_onnx(network, path, 48, images(48), form=form, preprocess=True)
    assert said(path)["input"].startswith("pixels: (N, H, W, 3) uint8")
    proto = onnx.load(path)
    assert [i.name for i in proto.graph.input] == ["pixels"]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("images"))
    onnx.save(proto, tmp_path / "open.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 90, 70, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(tmp_path / "open.onnx"))
    logits, seen = session.run(["logits", "images"], {"pixels": pixels})
    # The crop: at most one grey value off, in few places; tests/export/test_preprocess.py says why.
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    cut = normalise(torch.stack([evaluation_crop(p, 48) for p in pictures])).numpy()
    grey = np.abs(seen - cut) * 255 * np.array(network.spec.std).reshape(1, 3, 1, 1)
    assert grey.max() < 1.001 and (grey > 0.001).mean() < 0.1
    # What follows: the plain file on the very same values.
    expected = run(plain, torch.from_numpy(seen))
    if form == "codebook":
        assert_rounding(logits, expected)
    # Of bytes, a sum that rounds the other way moves an image's logits by more; half have none.
    apart = np.abs(logits - expected).max(1) / np.abs(expected).max()
    assert np.median(apart) <= 1e-5
    free = onnxruntime.InferenceSession(str(path)).run(["logits"], {"pixels": pixels})[0]
    assert np.median(np.abs(free - logits).max(1) / np.abs(expected).max()) <= 1e-5


def test_preprocessing_that_is_wrong_keeps_no_file(make, tmp_path, monkeypatch):
    from rsquant.export import preprocess

    def no_rounding_up(*args, **kwargs):
        monkeypatch.setattr(preprocess, "HALF", 4.5)
        return preprocess.add_preprocessing(*args, **kwargs)

    monkeypatch.setattr("rsquant.export.onnx.add_preprocessing", no_rounding_up)
    with pytest.raises(ExportError, match="preprocessing failed, nothing was kept: a picture of"):
        export_onnx(make(), tmp_path / "n.onnx", 48, preprocess=True)
    assert list(tmp_path.iterdir()) == []


def test_compat_files_have_only_what_onnxruntime_1_20_reads(make, tmp_path):
    network = make()
    for form in ("codebook", "int8"):
        path = tmp_path / f"{form}.onnx"
        assert export_onnx(network, path, 48, images(48), form=form, compat=True).passed
        proto = onnx.load(path)
        assert proto.ir_version == 10 and proto.opset_import[0].version == 21
        kinds = {t.data_type for t in proto.graph.initializer}
        assert onnx.TensorProto.UINT2 not in kinds and onnx.TensorProto.UINT4 not in kinds
        plain = tmp_path / f"{form}_plain.onnx"
        export_onnx(network, plain, 48, images(48), form=form)
        np.testing.assert_array_equal(run(path, images(48)), run(plain, images(48)))
        assert onnx.load(plain).opset_import[0].version == 25


def test_a_size_that_was_not_trained_needs_interpolate(make, tmp_path):
    network = make()
    with pytest.raises(ExportError, match=r"40 was not trained \(trained: 64, 48, 32\)"):
        export_onnx(network, tmp_path / "n.onnx", 40)
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(network, tmp_path / "n.onnx", 40, interpolate=True).passed


def test_an_existing_file_is_kept_unless_told(make, tmp_path):
    path = tmp_path / "n.onnx"
    path.write_text("mine")
    with pytest.raises(ExportError, match=r"exists already; `exist_ok=True`"):
        export_onnx(make(), path, 48)
    assert path.read_text() == "mine"
    export_onnx(make(), path, 48, exist_ok=True)
    assert path.stat().st_size > 1000
    with pytest.raises(ExportError, match="is a folder"):
        export_onnx(make(), tmp_path, 48, exist_ok=True)


def test_a_folder_that_cannot_be_written_is_one_line(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file, where a folder is needed") as caught:
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

    monkeypatch.setattr(forms, "to_onnx", broken)
    for form in forms.FORMS:
        with pytest.raises(ExportError, match="parity failed at 48, nothing was kept: logits diff"):
            export_onnx(make(), tmp_path / "n.onnx", 48, images(48), form=form)
    assert list(tmp_path.iterdir()) == []


class Sorting(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x.flatten(1)).S


def test_a_network_that_onnx_cannot_say_is_refused_in_one_line():
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*svd") as caught:
        to_onnx(Sorting(), 8)
    assert "\n" not in str(caught.value)


def test_a_refused_network_is_one_line_and_nothing_is_printed(tmp_path, capfd):
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.AdaptiveMaxPool2d(7),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 49, 5),
    )
    # Seven does not divide 32: such a pool is no operator of ONNX.
    network = rsquant.convert(body, 2, 32, (64, 32)).eval()
    with pytest.raises(ExportError, match=r"^2 \(AdaptiveMaxPool2d\) cannot be written as ONNX: "):
        export_onnx(network, tmp_path / "n.onnx", 32)
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*adaptive") as caught:
        export_onnx(network, tmp_path / "n.onnx", 32)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


class Deciding(torch.nn.Module):
    """What torch.fx cannot trace: a decision on the input, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2, self.bn3 = torch.nn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
        self.hidden = torch.nn.Linear(8, 16, bias=False)
        self.fc = torch.nn.Linear(16, 5)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        if x.shape[-1] > 3:
            x = self.bn3(self.conv2(x)).relu()
        return self.fc(self.hidden(x.mean((2, 3))).relu())


class Pooling(torch.nn.Sequential):
    """VGG's end, an average pool to 7 x 7 of a map that 7 does not divide; and no classifier."""

    def __init__(self):
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, 2, 1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(7),
            torch.nn.Conv2d(8, 8, 3),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU6(),
            torch.nn.Conv2d(8, 5, 1),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )


class Twins(torch.nn.Sequential):
    """Two layers of equal weights, which the exporter stores once; channels with dead norms."""

    def __init__(self):
        twin = torch.nn.Conv2d(8, 8, 3, padding=1)
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, 2, 1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            twin,
            torch.nn.ReLU(),
            copy.deepcopy(twin),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 5),
        )


@pytest.mark.parametrize("abits", [2, 32])
@pytest.mark.parametrize("body", [Deciding, Pooling, Twins])
def test_odd_networks_export_in_every_form(vary, tmp_path, body, abits):
    torch.manual_seed(0)
    network = vary(rsquant.convert(body(), 2, abits, (60, 52)))
    with torch.no_grad():
        norms = [m for m in network.modules() if hasattr(m, "running_var")]
        norms[-1].weight[:, :3] = 1e-6  # as weight decay leaves them
        norms[-1].bias[:, :3] = 3.0
    for form in forms.FORMS:
        parity = export_onnx(network, tmp_path / f"{form}.onnx", 60, images(60), form=form)
        assert parity.passed
    stored = onnx.load(tmp_path / "codebook.onnx").graph.initializer
    assert any(t.data_type == onnx.TensorProto.UINT2 for t in stored)


@pytest.mark.parametrize("form", ["float", "codebook", "int8"])
def test_values_that_are_not_finite_are_refused_by_name(make, tmp_path, form):
    network = make()
    with torch.no_grad():
        network.body.layer2[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"body\.layer2\.0\.conv1\.weight has NaN values; export"):
        export_onnx(network, tmp_path / "n.onnx", 48, form=form)
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_is_quiet(make, tmp_path, capfd):
    export_onnx(make(), tmp_path / "n.onnx", 48)
    assert capfd.readouterr() == ("", "")
