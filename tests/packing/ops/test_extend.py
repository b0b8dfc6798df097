"""Maps with their own pixels around them, and blurs: torch's values, on every back end."""

import numpy as np
import pytest
import torch
from around_map import SIZES, AroundMap, operations
from back_ends import assert_equal_everywhere, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError, PackError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.ops.extend import MODES, _taps

pad = functional.pad


def blur(net, x):
    """As timm's BlurPool2d."""
    return functional.conv2d(pad(x, (1, 1, 1, 1), "reflect"), net.filt, stride=2, groups=17)


def filters(size):
    row = torch.tensor((np.poly1d([1, 1]) ** (size - 1)).coeffs).float()
    return (row[:, None] * row / 4.0 ** (size - 1)).expand(17, 1, size, size).contiguous()


CHANGES = {
    "reflect": lambda net, x: pad(x, (2, 1, 3, 0), "reflect"),
    "replicate": lambda net, x: pad(x, (2, 1, 3, 0), mode="replicate"),
    "circular": lambda net, x: pad(x, (0, 1, 3, 2), "circular"),
    "reflecting layer": lambda net, x: net.reflected(x),
    "repeating layer": lambda net, x: net.repeated(x),
    "circular layer": lambda net, x: net.circled(x),
    "in a convolution": lambda net, x: net.conv2(x),
    "in a strided convolution of groups": lambda net, x: net.conv3(x),
    "blur": blur,
    "blur of 4 and stride 1": lambda net, x: functional.conv2d(x, net.filt4, groups=17),
    "blur with zeros around": lambda net, x: torch.conv2d(
        pad(x, (1, 1, 1, 1)), net.filt, None, (2, 1), groups=17
    ),
}


def parts():
    return {
        "reflected": nn.ReflectionPad2d((1, 2, 0, 3)),
        "repeated": nn.ReplicationPad2d(2),
        "circled": nn.CircularPad2d(1),
        "conv2": nn.Conv2d(17, 17, 3, padding=1, padding_mode="reflect"),
        "conv3": nn.Conv2d(17, 17, 3, 2, 2, 2, groups=17, padding_mode="replicate"),
        "filt": nn.Parameter(filters(3), requires_grad=False),
        "filt4": nn.Parameter(filters(4), requires_grad=False),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_the_values_are_torchs(name, compare, pixels, vary):
    network = converted(AroundMap(CHANGES[name], **parts()), SIZES, vary)
    # The file quantizes the pixels around the map too; torch puts quantized ones there.
    pads = {"conv2.input_quantizer": (-1,) * 4, "conv3.input_quantizer": (-2,) * 4}
    for height, width in ((24, 24), (15, 18)):
        compare(network, pixels(1, height, width), pads=pads)


@pytest.mark.parametrize("name", ["reflect", "replicate", "circular", "blur"])
def test_every_back_end_gives_the_same_values(name, vary, tmp_path, gpu):
    path = packed_file(converted(AroundMap(CHANGES[name], **parts()), SIZES, vary), tmp_path)
    assert_equal_everywhere(path, ((15, 18),), gpu)
    assert "extend" in operations(open_packed(path))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", [1, 2, 5])
def test_the_pixels_are_those_of_numpy(mode, side):
    names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    most = side - 1 if mode == "reflect" else side
    for before in range(most + 1):
        for after in range(most + 1):
            expected = np.pad(np.arange(side), (before, after), names[mode])
            found = _taps(side, before, after, mode)
            np.testing.assert_array_equal(found, np.stack([expected, expected], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, x: pad(x, (1, -1, 0, 0), "replicate"), "pads .* with replicate values; pad h"),
        (
            lambda net, x: functional.conv2d(x, net.filt * 2, groups=17),
            "conv2d: is a convolution with weights of no layer, which blur nothing; use an nn.Conv",
        ),
        (lambda net, x: functional.conv2d(x, net.filt, None, 1, 1, groups=17), "blurs with bias"),
        (lambda net, x: functional.conv2d(x, net.filt, net.filt[:, 0, 0, 0], groups=17), "bias"),
    ],
)
def test_what_is_not_supported_is_named(change, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(AroundMap(change, **parts()), SIZES, vary), tmp_path)


def test_the_image_cannot_be_extended(vary, tmp_path):
    body = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1, padding_mode="reflect"), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    with pytest.raises(PackError, match="reads the image; only a convolution can"):
        packed_file(converted(body, SIZES, vary), tmp_path)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    network = converted(AroundMap(CHANGES["reflect"], **parts()), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


def changed(path, change, to):
    tensors, metadata = read_packed(path)
    (step,) = [step for step in metadata["steps"] if step["op"] == "extend"]
    step.update(change)
    write_packed(to, tensors, metadata)
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "constant"}, "'mode' must be one of reflect, replicate, circular"),
        ({"padding": [1, 1]}, "'padding' must be a list of 4"),
        ({"padding": [0, 0, 0, -1]}, "'padding' must be an integer from 0"),
        ({"input": 99}, "reads value 99 before it is written"),
        ({"value": 0}, "value"),
    ],
)
def test_a_bad_file_is_named(change, message, extended, tmp_path):
    with pytest.raises(PackedFileError, match=message):
        open_packed(changed(extended, change, tmp_path / "bad.rsq"))


def test_maps_smaller_than_their_padding_are_refused(extended):
    packed = open_packed(extended)
    build_program(packed, 8, 8)  # maps of 4 x 4
    with pytest.raises(ModelError):
        build_program(packed, 6, 6)  # 3 rows are reflected of 3
