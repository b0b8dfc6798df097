"""Paddings that nothing takes over: torch's values, on every back end, and bad files."""

import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from one_operation import Around
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError, PackError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed

SIZES = (16, 11)
pad = functional.pad


def same_average(x, y):
    """As timm's AvgPool2dSame with its pad_same."""
    pads = []
    for side in x.shape[:1:-1]:
        total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.avg_pool2d(pad(x, pads), 3, 2)


def padded_same(x, y):
    pads = []
    for side in x.shape[:1:-1]:
        total = -(-side // 4) * 4 - side
        pads += [total // 2, total - total // 2]
    return functional.max_pool2d(pad(x, pads), 2)


PADDED = {
    "before an addition": (lambda x, y: pad(x, (1, 0, 2, 1)) + pad(x, (0, 1, 1, 2), value=0.5), 2),
    "before a concatenation": (lambda x, y: torch.cat([pad(x, (1, 0)), pad(x, (0, 1))], 1), 2),
    "cropped": (lambda x, y: pad(x, (-1, 2, -3, 0), "constant", -1.5), 1),
    "channels": (lambda x, y: pad(functional.avg_pool2d(x, 2), (0, 0, 0, 0, 2, 3)), 1),
    "negative maxima": (lambda x, y: functional.max_pool2d(pad(x, (1, 1)), 2), 1),
    "average": (lambda x, y: functional.avg_pool2d(pad(x, (1, 1, 0, 1)), 2), 0),
    "counted otherwise": (
        lambda x, y: functional.avg_pool2d(pad(x, 2 * (1, 0)), 3, 2, 1, False, False),
        1,
    ),
    "ceil": (lambda x, y: functional.avg_pool2d(pad(x, (1, 1, 1, 1)), 3, 2, ceil_mode=True), 1),
    "same average": (same_average, 0),
    "multiple of 4": (padded_same, 1),
    "layer": (nn.ConstantPad2d((1, 2, 0, 1), 0.25), 1),
}


@pytest.mark.parametrize("name", PADDED)
def test_the_values_are_torchs(name, compare, pixels, vary, tmp_path):
    operation, left = PADDED[name]
    given = {"before a concatenation": 10, "channels": 10}.get(name)
    network = converted(Around(operation, given=given), SIZES, vary)
    for side in ((16, 16), (9, 14)):
        assert compare(network, pixels(1, *side))[0] > 10
    packed = open_packed(packed_file(network, tmp_path))
    assert [step.OP for step in packed.plan.steps].count("pad") == left


@pytest.mark.parametrize("name", ["cropped", "channels"])
def test_every_back_end_gives_the_values_of_the_specification(name, vary, tmp_path, gpu):
    given = 10 if name == "channels" else None
    network = converted(Around(PADDED[name][0], given=given), SIZES, vary)
    assert_equal_everywhere(packed_file(network, tmp_path), ((9, 14),), gpu)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            lambda x, y: pad(x, (1, 1), value=float("-inf")) + pad(x, (1, 1)),
            "pads with -inf what add reads; only a max-pooling can",
        ),
        (
            lambda x, y: pad(x, (0, 16 // x.shape[3])) + x.mean((2, 3), keepdim=True),
            "by amounts that depend on the size of the images",
        ),
    ],
)
def test_what_is_not_supported_is_named(operation, message, vary, tmp_path):
    with pytest.raises(PackError, match=message):
        packed_file(converted(Around(operation), SIZES, vary), tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(Around(PADDED["cropped"][0]), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": [1, 1]}, "'padding' must be a list of 4"),
        ({"padding": "other"}, "'padding' must be one of same"),
        ({"padding": [70000, 0, 0, 0]}, "'padding' must be an integer"),
        ({"channels": [-1, 0]}, "'channels' must be an integer from 0"),
        ({"channels": [65536, 0]}, "gives 65541 channels"),
        ({"value": "0"}, "'value' must be a number"),
        ({"kernel": [0, 1]}, "'kernel' must be an integer from 1"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    path = changed_file(file, "pad", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)


def test_values_that_overflow_are_refused(file, tmp_path):
    path = changed_file(file, "pad", {"value": 3e38}, tmp_path)
    with pytest.raises(PackedFileError, match="its values can overflow"):
        build_program(open_packed(path), 16, 16)


def test_a_file_that_crops_past_the_far_edge_is_refused(file, tmp_path):
    packed = open_packed(changed_file(file, "pad", {"padding": [80, 0, -64, 0]}, tmp_path))
    with pytest.raises(ModelError, match="are too small: nothing is left of the map"):
        build_program(packed, *SIZES[:1] * 2)
