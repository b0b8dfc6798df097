"""Which rows belong to a size."""

import pytest

import rsquant
from rsquant.errors import ModelError
from rsquant.resolutions import blend, checked_sizes, path_names, side


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
    assert blend((64, 48, 32), size) == rows


def test_a_rectangle_counts_as_the_square_of_its_area():
    assert side(48, 48) == 48
    assert side(32, 72) == 48


@pytest.mark.parametrize("size", [32, 64, 100])
def test_of_several_rows_at_one_size_the_first_counts(size):
    assert blend((64, 64, 64), size) == (0, 0, 0.0)


def test_paths_are_named_by_their_size():
    assert path_names((96, 64)) == ["96", "64"]
    assert path_names((64, 64, 64)) == ["64", "64_path2", "64_path3"]


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
