"""The ONNX file of an integer network computes its integers, in onnxruntime and by definition."""

import json

import narrow
import numpy as np
import onnx
import pytest
import torch
from integer_files import assert_same_by_definition, assert_same_integers, each_once, images
from onnx import numpy_helper
from shallow import RESNET10, RESNET14
from torch import nn

import rsquant
from rsquant.errors import ExportError
from rsquant.export.engine import run, session
from rsquant.export.integer import to_integer_onnx
from rsquant.export.verify.integers import trace_integers

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (48, 32)


def preact(wbits=2, abits=2, **more):
    return rsquant.create(RESNET10, wbits, abits, SIZES, 7, width=8, integer=True, **more)


def bottleneck():
    return rsquant.create(RESNET14, 2, 3, SIZES, 7, width=4, integer=True)


def postact():
    return preact(block="post", stem="imagenet")


def mobilenet():
    network = narrow.mobilenet_v2(7, 0.1)
    return rsquant.convert(network, 2, 4, SIZES, integer=True)


class Pooled(nn.Module):
    """A signed quantizer behind a norm without ReLU, windows of averages, a flattened head."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool = nn.AvgPool2d(2)
        self.conv3 = nn.Conv2d(8, 12, 1)
        self.bn3 = nn.BatchNorm2d(12)
        self.last = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 7)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.pool(x)))
        return self.fc(torch.flatten(self.last(x), 1))


def pooled():
    return rsquant.convert(Pooled(), 3, 3, SIZES, integer=True)


MAKERS = {
    "preact": preact,
    "1/1": lambda: preact(1, 1),
    "4/4": lambda: preact(4, 4),
    "lsq": lambda: preact(3, 2, quantizer="lsq"),
    "bare": lambda: preact(block="preact-bare"),
    "bottleneck": bottleneck,
    "post-activation": postact,
    "mobilenet": mobilenet,
    "pooled": pooled,
}


@pytest.fixture(scope="module")
def networks():
    return each_once(MAKERS)


@pytest.mark.parametrize(
    ("name", "size", "compat"),
    # Between two rows of BatchNorms every network; at a row, one of each kind of block.
    [(name, 40, True) for name in MAKERS]
    + [(name, 48, False) for name in ("preact", "post-activation", "mobilenet", "pooled")]
    + [("preact", 32, False), ("4/4", 32, False)],
)
def test_onnxruntime_gives_every_code_and_logit(networks, name, size, compat):
    assert_same_integers(networks(name), size, compat)


@pytest.mark.parametrize("name", ["preact", "mobilenet", "pooled"])
def test_onnx_reference_gives_every_logit(networks, name):
    assert_same_by_definition(networks(name), 32)


def test_a_wrong_constant_is_found_at_its_layer(networks, tmp_path):
    network, x = networks("preact"), images(32)
    graph = to_integer_onnx(network, 32)
    tensors = {tensor.name: tensor for tensor in graph.proto.graph.initializer}
    changed = tensors["layer2.0.conv2/B"]
    values = numpy_helper.to_array(changed).copy()
    values[3] += 40
    changed.CopyFrom(numpy_helper.from_array(values, changed.name))
    with torch.no_grad(), network.at(32):
        trace = trace_integers(network, graph.proto, graph, x)
    assert trace.wrong > 0
    assert trace.wrong_at == "layer2.0.conv2"


def test_a_file_is_written_with_equal_logits(networks, tmp_path):
    network = networks("preact")
    parity = rsquant.export_onnx(network, tmp_path / "x.onnx", 32, images(32, 9))
    assert (parity.max_abs_error, parity.wrong_codes, parity.top1_agreement) == (0.0, 0, 1.0)
    assert parity.file_bytes < parity.float_bytes / 3
    meta = {p.key: p.value for p in onnx.load(str(tmp_path / "x.onnx")).metadata_props}
    assert (meta["form"], meta["integer"], meta["grid"]) == ("int8", "true", "coarse")
    assert json.loads(meta["resolutions"]) == list(SIZES)


def test_pixels_as_the_input(networks, tmp_path):
    network, path = networks("preact"), tmp_path / "x.onnx"
    rsquant.export_onnx(network, path, 32, preprocess=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1, 37, 37, 3), dtype=np.uint8)
    assert run(session(path), pixels)[0].shape == (1, 7)


@pytest.mark.parametrize("form", ["codebook", "float"])
def test_other_forms_are_refused(networks, tmp_path, form):
    with pytest.raises(ExportError, match="integer network has the form int8 only"):
        rsquant.export_onnx(networks("preact"), tmp_path / "x.onnx", 32, form=form)
    assert not list(tmp_path.iterdir())
