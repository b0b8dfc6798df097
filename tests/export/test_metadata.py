"""What a file says about itself: strings, and lists as JSON."""

import json

import onnx
import pytest

import rsquant
from rsquant.export.metadata import describe


def described(network, form="int8", resolution=48, preprocess=False, **more):
    proto = onnx.ModelProto()
    proto.metadata_props.add(key="stale", value="x")
    describe(proto, network, form, resolution, preprocess, **more)
    return {entry.key: entry.value for entry in proto.metadata_props}


def test_the_network_is_described(make):
    network = make("resnet10", 2, 4)
    found = described(network)
    assert found["rsquant_version"] == rsquant.__version__
    assert found["producer"] == f"rsquant {rsquant.__version__}"
    named = ("form", "arch", "wbits", "abits", "grid", "resolution", "num_classes")
    assert [found[key] for key in named] == ["int8", "resnet10", "2", "4", "none", "48", "5"]
    for key, value in (
        ("resolutions", [64, 48, 32]),
        ("mean", list(network.spec.mean)),
        ("std", list(network.spec.std)),
        ("classes", []),
    ):
        assert json.loads(found[key]) == value


def test_what_was_there_goes_and_further_entries_are_added(make):
    found = described(make(), calibration="64 training images of shapes")
    assert "stale" not in found
    assert found["calibration"] == "64 training images of shapes"


@pytest.mark.parametrize(
    "resolution,preprocess,says,given",
    [
        (48, False, "48", "images: (N, 3, H, W) float32, R G B, (pixel / 255 - mean) / std"),
        (48, True, "48", "pixels: (N, H, W, 3) uint8, R G B, resized and cropped in the file"),
        (None, False, "any", "images: (N, 3, H, W) float32, R G B, (pixel / 255 - mean) / std"),
        (None, True, "any", "pixels: (N, H, W, 3) uint8, R G B"),
    ],
)
def test_the_input_is_described(make, resolution, preprocess, says, given):
    found = described(make(), "codebook", resolution, preprocess)
    assert (found["resolution"], found["input"]) == (says, given)
