"""Concatenation: torch's values, on every back end, and what a file may say of it."""

import pytest
import torch
from back_ends import assert_equal_everywhere, changed_file, converted, packed_file
from torch import nn
from torch.nn import functional

from rsquant.errors import PackedFileError, PackError
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed

SIZES = (24, 16)


class Branches(nn.Module):
    """As in an Inception block: maps of 5, 16 and 19 channels, one of them twice, one of codes."""

    def __init__(self, concatenate=torch.cat):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.a, self.b, self.c = (nn.Conv2d(8, n, 1) for n in (5, 16, 19))
        self.bn_a = nn.BatchNorm2d(5)
        self.join, self.bn_j = nn.Conv2d(53, 9, 1, bias=False), nn.BatchNorm2d(9)
        self.fc = nn.Linear(9, 7)
        self.concatenate = concatenate

    def forward(self, x):
        x = functional.relu(self.bn(self.conv(x)))
        a, b, c = functional.relu(self.bn_a(self.a(x))), self.b(x), self.c(x)
        x = self.concatenate([a, b, c, a, x], 1)
        x = functional.relu(self.bn_j(self.join(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def test_the_values_are_torchs_on_every_back_end(compare, pixels, vary, tmp_path, gpu):
    network = converted(Branches(), SIZES, vary)
    compared, _, _ = compare(network, pixels(2, 24, 24))
    assert compared > 1000
    program = assert_equal_everywhere(packed_file(network, tmp_path), ((24, 24), (9, 17)), gpu)
    (step,) = [step for step in program.steps if type(step).__name__ == "ConcatStep"]
    assert [program.values[value].channels for value in step.inputs] == [5, 16, 19, 5, 8]


@pytest.mark.parametrize(
    "concatenate",
    [
        lambda maps, _: torch.cat(tensors=tuple(maps), dim=-3),
        lambda maps, _: torch.concat(maps, dim=1),
        lambda maps, dim: torch.concatenate(maps, dim),
    ],
)
def test_every_spelling_packs(concatenate, vary, tmp_path):
    packed = open_packed(packed_file(converted(Branches(concatenate), SIZES, vary), tmp_path))
    assert packed.plan.format_version == 4
    assert [step.OP for step in packed.plan.steps].count("concat") == 1


def test_other_dimensions_are_refused(vary, tmp_path):
    rows = Branches(lambda maps, _: torch.cat([maps[4], maps[4]], 2))
    rows.join = nn.Conv2d(8, 9, 1)
    with pytest.raises(PackError, match=r"^cat: concatenates along another dimension .*use dim=1"):
        packed_file(converted(rows, SIZES, vary), tmp_path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    network = converted(Branches(), SIZES, lambda network: None)
    return packed_file(network, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "'inputs' must be a list of 1 to 256"),
        ({"inputs": "all"}, "'inputs' must be a list"),
        ({"inputs": [0, 1]}, "'inputs' must be an integer from 1"),
        ({"inputs": [99]}, "reads value 99 before it is written"),
        ({"inputs": [True, 1]}, "'inputs' must be an integer"),
        ({"inputs": [1]}, r"reads \d+ channels, in_channels=53"),
        ({"output": 1}, "writes value 1, the next is"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_bad_file_is_named(change, message, file, tmp_path):
    path = changed_file(file, "concat", change, tmp_path)
    with pytest.raises(PackedFileError, match=message):
        open_packed(path)


def test_a_file_of_an_older_version_has_none(file, tmp_path):
    tensors, metadata = read_packed(file)
    write_packed(tmp_path / "old.rsq", tensors, {**metadata, "version": 3})
    with pytest.raises(PackedFileError, match=r"'concat' exists from version 4 .*has version 3"):
        open_packed(tmp_path / "old.rsq")
