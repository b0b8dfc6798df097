"""Paddings that nothing takes over, and maps that are flattened: torch's values everywhere."""

import pytest
import torch
from back_ends import assert_equal_everywhere, converted, packed_file
from one_operation import Around
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError, PackError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed

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
        (lambda x, y: pad(x, (1, 1, 1, 1), "reflect"), "pads with reflect values"),
        (nn.ReplicationPad2d(1), "pads with ReplicationPad2d values; pad with a constant"),
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


class Flattened(nn.Module):
    """As in a VGG: a map of fixed size, a low-bit linear layer and the classifier."""

    def __init__(self, flatten):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 7, 3, 1, 1), nn.BatchNorm2d(7)
        self.pool = nn.AdaptiveAvgPool2d((3, 2))
        self.flatten = flatten
        self.fc1, self.fc2 = nn.Linear(42, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv(x)))
        x = self.pool(functional.relu(self.norm2(self.conv2(x))))
        return self.fc2(functional.relu(self.fc1(self.flatten(x))))


@pytest.mark.parametrize(
    "flatten",
    [
        nn.Flatten(),
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(start_dim=1),
        lambda x: x.contiguous().view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], 42),
        lambda x: x.contiguous().view(-1, 7 * 3 * 2),
        lambda x: x.reshape((x.shape[0], -1)),
    ],
)
def test_a_map_is_flattened_in_torchs_order(flatten, compare, pixels, vary, tmp_path):
    network = converted(Flattened(flatten), SIZES, vary)
    assert compare(network, pixels(2, 11, 16))[0] > 100
    packed = open_packed(packed_file(network, tmp_path))
    assert [step.OP for step in packed.plan.steps].count("flatten") == 1


def test_every_back_end_flattens(vary, tmp_path, gpu):
    path = packed_file(converted(Flattened(nn.Flatten()), SIZES, vary), tmp_path)
    assert_equal_everywhere(path, ((11, 16),), gpu)


def changed(path, op, change, to):
    tensors, metadata = read_packed(path)
    (step,) = [step for step in metadata["steps"] if step["op"] == op]
    step.update(change)
    write_packed(to, tensors, metadata)
    return to


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    found = {}
    for name, body in (
        ("pad", Around(PADDED["cropped"][0])),
        ("flatten", Flattened(nn.Flatten())),
    ):
        network = converted(body, SIZES, lambda network: None)
        found[name] = packed_file(network, tmp_path_factory.mktemp("packed"))
    return found


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("pad", {"padding": [1, 1]}, "'padding' must be a list of 4"),
        ("pad", {"padding": "other"}, "'padding' must be one of same"),
        ("pad", {"padding": [70000, 0, 0, 0]}, "'padding' must be an integer"),
        ("pad", {"channels": [-1, 0]}, "'channels' must be an integer from 0"),
        ("pad", {"channels": [65536, 0]}, "gives 65541 channels"),
        ("pad", {"value": "0"}, "'value' must be a number"),
        ("pad", {"kernel": [0, 1]}, "'kernel' must be an integer from 1"),
        ("flatten", {"pixels": [0, 2]}, "'pixels' must be an integer from 1"),
        ("flatten", {"pixels": [65536, 65536]}, "channels, at most 65536 are known"),
        ("flatten", {"pixels": [3, 3]}, "reads 63 channels, in_channels=42"),
    ],
)
def test_a_bad_file_is_named(op, change, message, files, tmp_path):
    path = changed(files[op], op, change, tmp_path / "bad.rsq")
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)


def test_maps_of_another_size_are_refused(files, tmp_path):
    path = changed(files["flatten"], "flatten", {"pixels": [2, 3]}, tmp_path / "bad.rsq")
    with pytest.raises(ModelError, match="flattens maps of 2x3 pixels, and they give one of 3x2"):
        build_program(open_packed(path), 16, 16)


def test_values_that_overflow_are_refused(files, tmp_path):
    path = changed(files["pad"], "pad", {"value": 3e38}, tmp_path / "bad.rsq")
    with pytest.raises(PackedFileError, match="its values can overflow"):
        build_program(open_packed(path), 16, 16)
