"""Which rows belong to a size."""

import pytest

from rsquant.resolutions import blend, path_names, side


@pytest.mark.parametrize("size,rows", [
    (64, (0, 0, 0.0)), (100, (0, 0, 0.0)), (48, (1, 1, 0.0)), (32, (2, 2, 0.0)), (1, (2, 2, 0.0)),
    (56, (0, 1, 0.5)), (60, (0, 1, 0.25)), (36, (1, 2, 0.75)),
])  # fmt: skip
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
