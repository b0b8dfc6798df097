"""Settings, their order and names, and which rows belong to a size."""

import itertools
import random

import pytest

import rsquant
from rsquant.errors import ModelError
from rsquant.settings import (
    Blend,
    Setting,
    blend,
    checked_sizes,
    distinct,
    of_sizes,
    row_names,
    side,
)


@pytest.mark.parametrize(
    "size,rows",
    [
        (64, (0, 0, 0.0)),
        (100, (0, 0, 0.0)),
        (48, (1, 1, 0.0)),
        (32, (2, 2, 0.0)),
        (1, (2, 2, 0.0)),
        (56, (0, 1, 0.5)),
        (60, (0, 1, 0.25)),
        (36, (1, 2, 0.75)),
    ],
)
def test_a_size_blends_its_neighbours(size, rows):
    assert blend(of_sizes((64, 48, 32)), size) == rows


def test_a_rectangle_counts_as_the_square_of_its_area():
    assert side(48, 48) == 48
    assert side(32, 72) == 48


@pytest.mark.parametrize("size", [32, 64, 100])
def test_of_several_rows_at_one_size_the_first_counts(size):
    assert blend(of_sizes((64, 64, 64)), size) == (0, 0, 0.0)


def test_rows_are_named_by_what_differs():
    assert row_names(of_sizes((96, 64))) == ["96", "64"]
    assert row_names(of_sizes((64, 64, 64))) == ["64", "64_path2", "64_path3"]
    widths = [Setting(96), Setting(96, 0.75), Setting(64, 0.5)]
    assert row_names(widths) == ["96_x1", "96_x0_75", "64_x0_5"]
    # Bits that all settings share are the network's, not the setting's.
    assert row_names([Setting(96, 1.0, (2, 2)), Setting(64, 1.0, (2, 2))]) == ["96", "64"]
    both = [Setting(96, 1.0, (4, 4)), Setting(96, 0.5, (1, 2)), Setting(96, 0.5, (1, 2))]
    assert row_names(both) == ["96_x1_w4a4", "96_x0_5_w1a2", "96_x0_5_w1a2_path2"]


GRID = [
    Setting(size, width, bits)
    for size, width, bits in itertools.product((96, 48), (1.0, 0.5), ((4, 4), (2, 2), (1, 2)))
]


def test_settings_have_one_order_the_costliest_first():
    ordered = sorted(GRID)
    costs = [one.cost for one in ordered]
    assert costs == sorted(costs, reverse=True)
    assert (ordered[0], ordered[-1]) == (Setting(96, 1.0, (4, 4)), Setting(48, 0.5, (1, 2)))
    assert Setting(96, 0.5, (2, 2)).cost == Setting(48, 1.0, (2, 2)).cost  # a tie
    shuffler = random.Random(0)
    for _ in range(20):
        assert sorted(shuffler.sample(GRID, len(GRID))) == ordered
    for a, b in itertools.product(GRID, repeat=2):
        assert [a < b, a == b, a > b].count(True) == 1
        assert (a <= b) == (not b < a)


def test_a_network_that_switches_its_size_alone_has_its_rows_by_size():
    assert of_sizes((32, 96, 64)) == (Setting(96), Setting(64), Setting(32))
    assert of_sizes((64, 64)) == (Setting(64), Setting(64))
    assert distinct(of_sizes((64, 64, 64))) == [0]
    assert distinct(of_sizes((96, 64))) == [0, 1]


@pytest.mark.parametrize("width,bits", [(1.0, (4, 4)), (0.5, (4, 4)), (1.0, (1, 2)), (0.5, (2, 2))])
def test_sizes_blend_between_rows_that_differ_in_nothing_else(width, bits):
    settings = sorted(GRID)
    large, small = (settings.index(Setting(size, width, bits)) for size in (96, 48))
    assert blend(settings, 96, width, bits) == Blend.of_row(large)
    assert blend(settings, 10, width, bits) == Blend.of_row(small)
    assert blend(settings, 60, width, bits) == Blend(large, small, 0.75)


def test_unless_told_the_costliest_width_and_bits_are_meant():
    settings = sorted(GRID)
    assert blend(settings, 60) == blend(settings, 60, 1.0, (4, 4))


@pytest.mark.parametrize("width,bits", [(0.75, (4, 4)), (1.0, (3, 3)), (1.0, (32, 32))])
def test_a_width_or_bits_that_nothing_was_trained_at_are_refused(width, bits):
    with pytest.raises(
        ModelError, match=r"settings: none has width .* and bits .*; there are width 1 and bits 4/4"
    ):
        blend(sorted(GRID), 96, width, bits)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ("64,32", r"sequence of sizes in pixels, got '64,32'; pass \(64, 32,\)$"),
        ("large", r"got 'large'; pass \(64, 32\)$"),
        (64, r"got 64; pass \(64,\)$"),
        (None, r"got None; pass \(64, 32\)$"),
        (["64", "32"], r"whole numbers of pixels, got \('64', '32'\)"),
        ((64, 32.5), r"whole numbers of pixels, got \(64, 32\.5\)"),
        ((64, None), "whole numbers of pixels"),
        ((64, float("nan")), "whole numbers of pixels"),
    ],
)
def test_what_is_no_list_of_sizes_says_what_to_pass(wrong, message):
    with pytest.raises(ModelError, match=message):
        checked_sizes(wrong)
    with pytest.raises(ModelError, match=message):
        rsquant.create("resnet18", resolutions=wrong)


def test_sizes_may_be_any_whole_numbers():
    import numpy as np

    assert checked_sizes(np.array([64, 32])) == (64, 32)
    assert checked_sizes(size for size in (64.0, 32)) == (64, 32)
