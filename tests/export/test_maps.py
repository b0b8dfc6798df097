"""Networks that give one prediction per pixel: every form of their files, run by onnxruntime."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from shallow import RESNET10
from torch.nn import functional

import rsquant
from rsquant.data.transforms import normalise, resize
from rsquant.export.graph import IMAGES
from rsquant.export.onnx import Material, Options, export_files, export_switchable
from rsquant.serve import Predictor

SIZES = (64, 48, 32)


@pytest.fixture(scope="module")
def networks(vary):
    """By bits."""
    torch.manual_seed(0)
    arch, made = f"refinenet_lw_bn_{RESNET10}", {}
    for wbits, abits in ((2, 2), (32, 32)):
        given = {"num_classes": 5, "width": 4, "task": "segmentation"}
        made[wbits, abits] = vary(rsquant.create(arch, wbits, abits, SIZES, **given)).eval()
    return made


def images(height, width, n=2):
    generator = torch.Generator().manual_seed(100 * height + width)
    return torch.randn(n, 3, height, width, generator=generator)


def run(path, x, outputs=("logits",)):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found = session.run(list(outputs), {given.name: x.numpy()})
    return found if len(found) > 1 else found[0]


def of_torch(network, x):
    with torch.no_grad():
        return network(x).numpy()


# Of the largest logit: the order of float32 sums, see `test_switchable.assert_rounding`.
ROUNDING = 2.5e-5


def assert_rounding(got, expected):
    assert got.shape == expected.shape and expected.std() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


FORMS = [((32, 32), "float"), ((2, 2), "codebook")]


@pytest.mark.parametrize(("bits", "form"), [*FORMS, ((2, 2), "float")])
def test_files_of_one_size_give_torch_s_maps(networks, tmp_path, bits, form):
    # Float weights are in each file, codes in one for all sizes.
    sizes, shared = ((32,), None) if form == "float" else ((64, 32), tmp_path / "net.weights")
    files = {size: tmp_path / f"{size}.onnx" for size in sizes}
    export_files(networks[bits], files, Options(form), weights=shared)
    for size, path in files.items():
        x = images(size, size)
        got = run(path, x)
        assert got.shape == (2, 5, size // 4, size // 4)
        assert_rounding(got, of_torch(networks[bits], x))


# Trained are 64, 48 and 32; the others are no multiple of the stride, not square, or outside.
SHAPES = [(64, 64), (48, 48), (32, 32), (40, 57), (33, 60), (100, 50)]


@pytest.mark.parametrize(
    ("bits", "form"), [FORMS[0], pytest.param(*FORMS[1], marks=pytest.mark.slow)]
)
def test_a_single_file_gives_them_at_any_size(networks, tmp_path, bits, form):
    export_switchable(networks[bits], tmp_path / "net.onnx", Options(form))
    for shape in SHAPES:
        x = images(*shape)
        assert_rounding(run(tmp_path / "net.onnx", x), of_torch(networks[bits], x))


# The evaluator pads bytes with NaN, which become 0.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_int8_files_compute_what_onnx_defines(networks, tmp_path):
    x = images(48, 48, 4)
    material = Material({48: x}, {48: x}, (), "noise")
    path = tmp_path / "net.onnx"
    parity = export_files(networks[2, 2], {48: path}, Options("int8"), material)[48]
    assert parity.passed and parity.wrong_codes == 0 and parity.forced_error <= 1e-5
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"images": x[:1].numpy()})[0]
    assert_rounding(run(path, x[:1]), expected)
    # How many predictions stay is a figure without a bound; it is told of pixels.
    own = of_torch(networks[2, 2], x)
    assert parity.top1_agreement == (run(path, x).argmax(1) == own.argmax(1)).mean()


@pytest.fixture
def photograph():
    generator = torch.Generator().manual_seed(1)
    return resize(torch.randint(0, 256, (3, 6, 9), dtype=torch.uint8, generator=generator), 50, 75)


def assert_masks(path, photograph, logits, size):
    """A predictor over the file gives the classes of these logits.

    Its own are off by ROUNDING at most, before and after a resize, whose weights are positive and
    add up to 1: so two classes change places only where they are within twice that.
    """
    said = Predictor(path)(photograph.permute(1, 2, 0).numpy(), resolution=size)
    large = functional.interpolate(torch.from_numpy(logits), (50, 75), mode="bilinear")[0].numpy()
    told = np.take_along_axis(large, said.mask[None].astype(np.int64), 0)[0]
    assert said.mask.shape == told.shape == (50, 75)
    assert (large.max(0) - told).max() <= 2 * ROUNDING * np.abs(logits).max()


def test_preprocessing_makes_a_square_of_the_whole_photograph(networks, photograph, tmp_path):
    network, path = networks[32, 32], tmp_path / "net.onnx"
    export_files(network, {32: path}, Options("float", preprocess=True))
    proto = onnx.load(path)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(IMAGES))
    onnx.save(proto, tmp_path / "open.onnx")
    pixels = photograph.permute(1, 2, 0)[None].contiguous()
    got, made = run(tmp_path / "open.onnx", pixels, ["logits", IMAGES])
    square = normalise(resize(photograph, 32, 32)[None], network.spec.mean, network.spec.std)
    levels = (made - square.numpy()) * 255 * np.array(network.spec.std).reshape(-1, 1, 1)
    # One level off where a rounding is a tie: the bounds of `test_preprocess.assert_same_pixels`.
    assert np.abs(levels).max() < 1.001 and (np.abs(levels) > 0.001).mean() < 0.1
    expected = of_torch(network, torch.from_numpy(made))
    assert_rounding(got, expected)
    assert_masks(path, photograph, expected, 32)
    known = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert known["input"] == "pixels: (N, H, W, 3) uint8, R G B, resized to a square in the file"


def test_a_single_file_with_preprocessing_predicts_masks(networks, photograph, tmp_path):
    network, path = networks[32, 32], tmp_path / "net.onnx"
    export_switchable(network, path, Options("float", preprocess=True))
    square = resize(photograph, 48, 48)[None]
    expected = of_torch(network, normalise(square, network.spec.mean, network.spec.std))
    assert_rounding(run(path, square.permute(0, 2, 3, 1).contiguous()), expected)
    assert_masks(path, photograph, expected, 48)
