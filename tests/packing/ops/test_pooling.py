"""Poolings of windows: torch's values, on every back end, and what a file may say of them."""

import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from one_operation import Around
from torch import nn
from torch.nn import functional

from rsquant.errors import ModelError, PackedFileError, PackError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed

# A result of fixed size counts as a large stride, below which no size is trained.
SIZES = (64, 48)
SIDES = ((16, 16), (11, 11), (9, 14))

POOLINGS = {
    "plain": (nn.AvgPool2d(2), "avgpool2d"),
    "overlapping": (nn.AvgPool2d((3, 2), stride=(1, 2)), "avgpool2d"),
    "padding counts": (nn.AvgPool2d(3, 2, 1), "avgpool2d"),
    "padding does not count": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "avgpool2d"),
    "ceil": (nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), "avgpool2d"),
    "ceil and padding": (nn.AvgPool2d(3, (2, 3), (0, 1), True), "avgpool2d"),
    "divisor": (nn.AvgPool2d(3, 2, 1, divisor_override=7), "avgpool2d"),
    "function": (lambda x: functional.avg_pool2d(x, 3, stride=2, padding=1), "avgpool2d"),
    "stride of the kernel": (lambda x: functional.avg_pool2d(x, [2, 3]), "avgpool2d"),
    "module's stride": (nn.AvgPool2d(kernel_size=3, stride=None), "avgpool2d"),
    "positions": (lambda x: functional.avg_pool2d(x, 3, 2, 1, True, False), "avgpool2d"),
    "adaptive": (nn.AdaptiveAvgPool2d(7), "adaptive_avgpool"),
    "adaptive rows": (nn.AdaptiveAvgPool2d((3, None)), "adaptive_avgpool"),
    "adaptive to more": (nn.AdaptiveAvgPool2d((1, 19)), "adaptive_avgpool"),
    "adaptive function": (
        lambda x: functional.adaptive_avg_pool2d(x, output_size=(None, 6)),
        "adaptive_avgpool",
    ),
    "max ceil": (nn.MaxPool2d(3, 2, ceil_mode=True), "maxpool"),
    "max ceil and padding": (nn.MaxPool2d(2, 3, 1, ceil_mode=True), "maxpool"),
    "max dilation": (nn.MaxPool2d((2, 3), 1, 1, dilation=(3, 2)), "maxpool"),
    "max all": (lambda x: functional.max_pool2d(x, 3, 3, 1, 2, True), "maxpool"),
    "max of torch": (lambda x: torch.max_pool2d(x, 3, 2, ceil_mode=True), "maxpool"),
    "every other pixel": (lambda x: x[:, :, ::2, ::3], "maxpool"),
    "every other column": (lambda x: x[..., ::2], "maxpool"),
    "max adaptive": (nn.AdaptiveMaxPool2d((5, None)), "adaptive_maxpool"),
    "max of all": (nn.AdaptiveMaxPool2d(1), "adaptive_maxpool"),
    "max adaptive function": (
        lambda x: functional.adaptive_max_pool2d(x, [6, 7]),
        "adaptive_maxpool",
    ),
    "max of the size": (lambda x: functional.max_pool2d(x, x.size()[-2:]), "adaptive_maxpool"),
    "amax": (lambda x: x.amax((2, 3), keepdim=True), "adaptive_maxpool"),
    "amax function": (lambda x: torch.amax(x, dim=[-1, -2], keepdim=True), "adaptive_maxpool"),
}


def around(pooling, channels):
    module = isinstance(pooling, nn.Module)
    return Around(pooling if module else lambda x, _: pooling(x), channels)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_values_are_torchs(name, compare, pixels, vary, tmp_path):
    pooling, op = POOLINGS[name]
    network = converted(around(pooling, 5), SIZES, vary)
    for side in SIDES:
        compared, _, _ = compare(network, pixels(1, *side))
        assert compared > 10
    packed = open_packed(packed_file(network, tmp_path))
    assert packed.plan.format_version == 4
    assert [step.OP for step in packed.plan.steps].count(op) == 1


WHOLE = [
    lambda x: functional.avg_pool2d(x, x.shape[2:]),
    lambda x: functional.avg_pool2d(x, kernel_size=(x.size(2), x.size(-1)), stride=1),
    lambda x: functional.avg_pool2d(x, x.size()[-2:], ceil_mode=True),
]


@pytest.mark.parametrize("pooling", WHOLE)
def test_a_window_of_the_size_of_the_map_averages_it(pooling, compare, pixels, vary, tmp_path):
    network = converted(around(pooling, 5), SIZES, vary)
    for side in SIDES:
        compare(network, pixels(1, *side))
    packed = open_packed(packed_file(network, tmp_path))
    # Three are those of the network around it.
    assert [step.OP for step in packed.plan.steps].count("avgpool") == 4


@pytest.mark.parametrize(
    "pooling",
    [
        lambda x: functional.avg_pool2d(x, x.shape[2:], padding=1),
        lambda x: functional.avg_pool2d(x, x.shape[2:], divisor_override=2),
        lambda x: functional.max_pool2d(x, x.shape[2:], padding=1),
        lambda x: functional.avg_pool2d(x, x.shape[3]),
        lambda x: functional.avg_pool2d(x, (x.shape[3], x.shape[2])),
    ],
)
def test_other_windows_of_the_size_of_the_map_are_refused(pooling, vary, tmp_path):
    line = "_pool2d: what the network computes there depends on the size"
    with pytest.raises(PackError, match=line):
        packed_file(converted(around(pooling, 5), SIZES, vary), tmp_path)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("ceil and padding", 1),
        ("padding does not count", 17),
        ("adaptive", 33),
        ("max all", 19),
        ("max adaptive", 16),
    ],
)
def test_every_back_end_gives_the_values_of_the_specification(name, channels, vary, tmp_path, gpu):
    network = converted(around(POOLINGS[name][0], channels), SIZES, vary)
    assert_equal_everywhere(packed_file(network, tmp_path), ((16, 16), (9, 14)), gpu)


class CodesPooled(nn.Module):
    """A quantizer that alone reads a max-pooling moves in front of it, dilated or not."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 7, 3, 1, 1), nn.BatchNorm2d(7)
        self.pool = nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True)
        self.conv, self.norm1 = nn.Conv2d(7, 6, 3), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.pool(functional.relu(self.norm(self.stem(x))))
        return self.fc(functional.relu(self.norm1(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("abits", [2, 3])
def test_codes_are_pooled(abits, compare, pixels, vary, tmp_path, gpu):
    network = converted(CodesPooled(), SIZES, vary, abits)
    assert compare(network, pixels(1, 11, 16))[0] > 100
    program = assert_equal_everywhere(packed_file(network, tmp_path), ((11, 16),), gpu)
    (step,) = [step for step in program.steps if type(step).__name__ == "MaxPoolStep"]
    assert program.values[step.input].kind == "codes"


def test_a_file_that_needs_neither_says_nothing_of_dilation_and_ceil_mode(vary, tmp_path):
    body = CodesPooled()
    body.pool = nn.MaxPool2d(3, 2, 1)
    tensors, metadata = read_packed(packed_file(converted(body, SIZES, vary), tmp_path))
    (step,) = [step for step in metadata["steps"] if step["op"] == "maxpool"]
    assert sorted(step) == ["input", "kernel", "name", "op", "output", "padding", "stride"]
    assert metadata["version"] == 2
    (step,) = [step for step in metadata["steps"] if step["op"] == "maxpool"]
    step.update(dilation=[2, 2], ceil_mode=True)
    write_packed(tmp_path / "old.rsq", tensors, metadata)
    with pytest.raises(PackedFileError, match="'dilation' and 'ceil_mode' exist from version 4"):
        open_packed(tmp_path / "old.rsq")


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        (nn.AvgPool2d(2, divisor_override=-3), "divides by -3"),
        (nn.AvgPool2d(33, 1), "kernel or stride of more than 31 pixels"),
        (lambda x: x.amax(2, keepdim=True), "is not a maximum over whole maps"),
        (nn.LPPool2d(2, 2), "the runtime does not have"),
    ],
)
def test_what_is_not_supported_is_named(pooling, message, vary, tmp_path):
    body = around(pooling, 5)
    with pytest.raises(PackError, match=message):
        packed_file(converted(body, SIZES, vary), tmp_path)


def test_images_too_small_for_a_window_are_named(vary, tmp_path):
    path = packed_file(converted(around(nn.AvgPool2d(5), 3), SIZES, vary), tmp_path)
    with pytest.raises(ModelError, match="too small: nothing is left of the map at"):
        build_program(open_packed(path), 4, 16)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("divisor", {"stride": [2]}, "'stride' must be a list of 2"),
        ("divisor", {"padding": [2, 1]}, "padding must be at most half the kernel"),
        ("divisor", {"padding": [1, 1, 3, 1]}, "where sides differ, smaller than the kernel"),
        ("divisor", {"padding": "some"}, "'padding' must be pixels or one of same"),
        ("divisor", {"divisor": 0}, "'divisor' must be an integer from 1"),
        ("divisor", {"divisor": 2**40}, "'divisor' must be an integer from 1"),
        ("divisor", {"ceil_mode": 1}, "'ceil_mode' must be true or false"),
        ("divisor", {"input": 99}, "reads value 99 before it is written"),
        ("divisor", {"input": 1, "extra": 0}, "unknown field 'extra'"),
        ("adaptive", {"size": [0, 7]}, "'size' must be an integer from 1 to 4096"),
        ("adaptive", {"size": [7, 7, 7]}, "'size' must be a list of 2 to 2"),
        ("adaptive", {"size": 7}, "'size' must be a list"),
        ("adaptive", {"least": [0, 7]}, "'least' must be an integer from 1 to 4096"),
        ("max adaptive", {"size": [1.0, None]}, "'size' must be an integer"),
        ("max adaptive", {"output": 1}, "writes value 1, the next is"),
        ("max all", {"dilation": [32, 1]}, "'dilation' must be an integer from 1 to 31"),
        ("max all", {"ceil_mode": None}, "'ceil_mode' must be true or false"),
        ("max all", {"dilation": [1, 1], "padding": [2, 2]}, "at most half the kernel"),
    ],
)
def test_a_bad_file_is_named(name, change, message, files, tmp_path):
    path = changed_file(files[name], POOLINGS[name][1], change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files by the name of their pooling."""
    made = {}
    for name in ("divisor", "adaptive", "max adaptive", "max all"):
        folder = tmp_path_factory.mktemp("packed")
        network = converted(around(POOLINGS[name][0], 5), SIZES, lambda network: None)
        made[name] = packed_file(network, folder)
    return made
