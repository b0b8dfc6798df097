"""The ONNX file of an integer network that ends in a map computes its integers."""

import json

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from integer_files import assert_same_by_definition, assert_same_integers, each_once, images
from onnx import numpy_helper
from shallow import RESNET10
from torch import nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

import rsquant
from rsquant.data.transforms import normalise, resize
from rsquant.errors import ExportError
from rsquant.export.engine import run, session
from rsquant.export.integer import to_integer_onnx
from rsquant.export.onnx import export_files
from rsquant.export.verify.integers import trace_integers
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.integer.resize import IntegerResize
from rsquant.quantizers.registry import make_activations
from rsquant.serve import Predictor

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (48, 32)
# The evaluator of ONNX pads bytes with NaN, which become 0.
PADS = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")


def refinenet(name, abits=2, width=2):
    given = {"width": width, "task": "segmentation", "integer": True}
    return rsquant.create(f"refinenet_{name}{RESNET10}", 2, abits, SIZES, 5, **given)


class Own(nn.Module):
    """Resized in every mode, by factors, to numbers of pixels, and to sizes that are computed.

    One Upsample and one pooling run twice, one sum reads a map twice; the head has strides and
    groups.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 8, 1)
        self.mid = nn.Conv2d(8, 8, 3, 1, 1)
        self.depth = StochasticDepth(0.2, "row")
        self.twice = nn.Upsample(scale_factor=2)
        self.up = nn.Upsample(scale_factor=(1.5, 2.0), mode="nearest")
        self.blended = nn.Upsample((21, 25), mode="bilinear")
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.head = nn.Conv2d(8, 6, 3, 2, 1, groups=2)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        y = self.up(self.two(self.one(x)))
        y = self.twice(y) + self.twice(self.depth(self.mid(y)))
        size = y.shape[2] // 2 + 1, image.shape[-1] // 3
        y = functional.interpolate(y, size, mode="nearest-exact")
        x = functional.interpolate(x, y.shape[2:], mode="bilinear", align_corners=True)
        y = functional.interpolate(self.pool(x) + self.pool(y), scale_factor=1.3, mode="bilinear")
        y = self.blended(y)
        return self.head(y + y)


class OfLevels(nn.Module):
    """The head reads what a quantizer gives."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.levels = make_activations("lq", 2, True, 15)
        self.head = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x):
        return self.head(self.levels(self.norm(self.stem(x))))


def of_levels():
    network = rsquant.convert(OfLevels(), 2, 2, SIZES, task="segmentation", integer=True)
    assert not isinstance(network.body.head.source, Bytes)
    return network


MAKERS = {
    "light": lambda: refinenet("lw_bn_"),
    "full": lambda: refinenet("", 3),
    "own": lambda: rsquant.convert(Own(), 2, 4, SIZES, task="segmentation", integer=True),
    "of levels": of_levels,
}


@pytest.fixture(scope="module")
def networks():
    return each_once(MAKERS)


@pytest.mark.parametrize(
    ("name", "size", "compat"),
    # Between two rows of BatchNorms every network, 40; others at their rows.
    [(name, 40, True) for name in MAKERS] + [("light", 48, False), ("own", 32, False)],
)
def test_onnxruntime_gives_every_code_and_logit(networks, name, size, compat):
    graph = assert_same_integers(networks(name), size, compat)
    onnx.checker.check_model(graph, full_check=True)


@PADS
@pytest.mark.parametrize("name", MAKERS)
def test_onnx_reference_gives_every_logit(networks, name):
    assert_same_by_definition(networks(name), 32)


def test_calls_of_one_upsample_resize_maps_of_their_own(networks):
    body = networks("own").body
    first, second = body.twice, body.twice2
    assert isinstance(first, IntegerResize) and isinstance(second, IntegerResize)
    assert (first.source, second.source) == (body.two.out, body.mid.out)


@pytest.mark.parametrize(
    ("constant", "where"),
    [("levels.2.resize/rows", "levels.2.resize"), ("head/weights", "logits")],
)
def test_a_wrong_constant_is_found_at_its_layer(networks, constant, where):
    network, x = networks("light"), images(32)
    graph = to_integer_onnx(network, 32)
    tensor = next(one for one in graph.proto.graph.initializer if one.name == constant)
    values = numpy_helper.to_array(tensor)[::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(values, constant))
    with torch.no_grad(), network.at(32):
        trace = trace_integers(network, graph.proto, graph, x)
    assert trace.wrong > 0
    assert trace.wrong_at == where


def test_files_are_written_with_equal_maps(networks, tmp_path):
    network = networks("light")
    files = {size: tmp_path / f"{size}.onnx" for size in SIZES}
    parities = export_files(network, files, weights=tmp_path / "net.weights")
    for size, path in files.items():
        parity = parities[size]
        assert (parity.max_abs_error, parity.wrong_codes, parity.top1_agreement) == (0.0, 0, 1.0)
        proto = onnx.load(str(path))
        meta = {p.key: p.value for p in proto.metadata_props}
        assert (meta["form"], meta["integer"], meta["task"]) == ("int8", "true", "segmentation")
        assert json.loads(meta["resolutions"]) == list(SIZES)
        (output,) = proto.graph.output
        shape = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        assert shape == ["N", 5, size // 4, size // 4]
        for count in (1, 5):
            x = images(size, count)
            with torch.no_grad():
                assert np.array_equal(run(session(path), x.numpy())[0], network(x).numpy())


def test_pixels_as_the_input(networks, tmp_path):
    network, path = networks("light"), tmp_path / "x.onnx"
    rsquant.export_onnx(network, path, 32, preprocess=True)
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    with torch.no_grad():
        logits = network(normalise(resize(picture, 32, 32)[None]))
    # Pixels that keep their size are exact, so the rest is too.
    assert np.array_equal(run(session(path), pixels[None])[0], logits.numpy())
    large = functional.interpolate(logits, (32, 32), mode="bilinear")[0].argmax(0).numpy()
    assert (Predictor(path)(pixels, resolution=32).mask == large).mean() > 0.99


@pytest.mark.parametrize("form", ["codebook", "float"])
def test_other_forms_are_refused(networks, tmp_path, form):
    with pytest.raises(ExportError, match="integer network has the form int8 only"):
        rsquant.export_onnx(networks("light"), tmp_path / "x.onnx", 32, form=form)
    assert not list(tmp_path.iterdir())
