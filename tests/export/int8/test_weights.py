"""Weights as int8: the nearest ones, exact where they can be, and never so large as to saturate."""

import numpy as np
import pytest

from rsquant.export.int8.weights import round_weights, smallest_scale, weight_limit

LIMITS = [1, 2, 15, 64, 127]
# Sizes straddle the word.
SHAPES = [(1, 1), (3, 1, 1, 1), (4, 5), (5, 3, 3, 3), (64, 1, 3, 3), (65, 63), (2, 64, 1, 1)]


def rounded(weight, limit, smallest=None):
    weight = np.asarray(weight)
    return round_weights(weight, limit, np.zeros(len(weight)) if smallest is None else smallest)


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nearest(weight, scale, limit):
    """Of all integers up to the limit, for every weight the one whose multiple is nearest."""
    candidates = np.arange(-limit, limit + 1)
    rows = weight.reshape(len(weight), -1, 1).astype(np.float64)
    off = np.abs(rows - candidates * scale.astype(np.float64)[:, None, None])
    return candidates[off.argmin(-1)].reshape(weight.shape)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_weight_takes_the_nearest_multiple_of_its_channels_scale(shape, limit):
    weight = normal(shape)
    found = rounded(weight, limit)
    assert found.integers.dtype == np.int8 and found.scale.dtype == np.float32
    assert found.integers.shape == shape and found.scale.shape == shape[:1]
    assert np.array_equal(found.integers, nearest(weight, found.scale, limit))


@pytest.mark.parametrize("limit", LIMITS)
def test_the_largest_weight_of_a_channel_takes_the_limit(limit):
    # The scale is largest / limit, rounded to float32.
    weight = normal((65, 63))
    found = rounded(weight, limit)
    assert (np.abs(found.integers.astype(int)).max(1) == limit).all()
    expected = (np.abs(weight).astype(np.float64).max(1) / limit).astype(np.float32)
    assert np.array_equal(found.scale, expected)


def test_what_the_integers_stand_for_is_the_scale_times_them():
    found = rounded(normal((5, 3, 3, 3)), 127)
    expected = [
        float(scale) * row.astype(np.float64)
        for scale, row in zip(found.scale, found.integers, strict=True)
    ]
    assert np.array_equal(found.values(), np.stack(expected))
    assert found.values().dtype == np.float64


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-30, 3e7])
def test_rows_on_a_grid_of_at_most_the_limit_are_exact(limit, scale):
    rng = np.random.default_rng(limit)
    for largest in range(1, limit + 1):
        row = rng.integers(-largest, largest + 1, 9)
        row[0] = largest
        weight = (row * np.float32(scale)).astype(np.float32)[None]
        found = rounded(weight, limit)
        # A multiple of the row itself; products and the scale round once each, at 2**-24.
        integers = found.integers[0].astype(int)
        assert np.array_equal(integers * largest, row * integers[0])
        np.testing.assert_allclose(found.values(), weight, rtol=2.0**-22)


def test_a_row_on_a_grid_takes_its_largest_multiple_within_the_limit():
    # Large integers keep the bias's unit small. 13 * 9 = 117 <= 127 < 130.
    found = rounded(np.array([[1.0, -5.0, 13.0], [2.0, -10.0, 26.0]]), 127)
    assert found.integers.tolist() == [[9, -45, 117]] * 2
    found = rounded(np.array([[3.0, 100.0]]), 127)
    assert found.integers.tolist() == [[3, 100]]


def test_a_row_one_beyond_the_limit_is_rounded():
    weight = np.array([[128.0, 127.0, 1.0]])
    found = rounded(weight, 127)
    assert found.integers.tolist() == [[127, 126, 1]]


def test_one_row_on_a_grid_leaves_the_others_alone():
    weight = np.stack([normal(9), [0, 1, 2, 3, -3, -2, -1, 0, 1]]).astype(np.float32)
    both, alone = rounded(weight, 127), rounded(weight[:1], 127)
    assert np.array_equal(both.integers[:1], alone.integers)
    assert both.integers[1].tolist() == [42 * i for i in (0, 1, 2, 3, -3, -2, -1, 0, 1)]


@pytest.mark.parametrize("share", [0.5, 1e-3, 1e-5])
def test_a_row_close_to_a_grid_is_still_rounded_to_the_nearest(share):
    # Off the grid by a share of a step, so by far more than float32 rounds.
    weight = (np.array([[1, 2, 3, -3]]) + share * np.array([[0, 1, 0, 0]])).astype(np.float32)
    found = rounded(weight, 127)
    assert np.array_equal(found.integers, nearest(weight, found.scale, 127))
    assert np.abs(found.values() - weight).max() <= found.scale[0] / 2


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_levels_of_small_integer_bases_are_exact(bits):
    # What a network on the coarse grid has in its tables, BatchNorm's factor included.
    rng = np.random.default_rng(bits)
    basis = rng.multinomial(14, np.full(bits, 1 / bits), 65)
    signs = 1 - 2 * (np.arange(2**bits)[:, None] >> np.arange(bits) & 1)
    levels = basis @ signs.T
    factor = rng.uniform(-2, 2, 65).astype(np.float32)
    table = (levels * factor[:, None]).astype(np.float32)
    # Both sides are rounded once, at 2**-24.
    np.testing.assert_allclose(rounded(table, 64).values(), table, rtol=2.0**-22)


@pytest.mark.parametrize("zero", [0.0, -0.0, 1e-45])
def test_a_channel_of_zeros_is_zeros_at_a_scale_that_divides(zero):
    weight = normal((3, 9))
    weight[1] = zero
    found = rounded(weight, 127)
    assert not found.integers[1].any() and found.scale[1] == 1
    others = rounded(weight[[0, 2]], 127)
    assert np.array_equal(found.integers[[0, 2]], others.integers)


def test_all_channels_may_be_zeros():
    found = rounded(np.zeros((4, 3), np.float32), 64)
    assert not found.integers.any() and (found.scale == 1).all()


@pytest.mark.parametrize("limit", LIMITS)
def test_no_integer_exceeds_the_limit(limit):
    # Scales that float32 rounds down would round their largest weight up.
    weight = np.exp(normal((500, 3), seed=1) * 20).astype(np.float32)
    assert np.abs(rounded(weight, limit).integers.astype(int)).max() == limit


@pytest.mark.parametrize("input_scale", [1.0, 1e-3, 7.0])
def test_a_bias_in_units_of_the_scales_fits_beside_its_sum(input_scale):
    # The largest sum: 255 * 127 for each of 2**14 products is 2**29, so 2**31 - 2**29 is left.
    rng = np.random.default_rng(0)
    weight = normal((200, 9)) * np.exp(rng.uniform(-40, 5, (200, 1)))
    bias = rng.normal(size=200) * np.exp(rng.uniform(-20, 10, 200))
    found = rounded(weight, 127, smallest_scale(bias, input_scale))
    integers = np.rint(bias / (found.scale.astype(np.float64) * input_scale))
    assert np.abs(integers).max() <= 2**31 - 2**29
    # And it is of use: some would not have fitted.
    alone = rounded(weight, 127).scale.astype(np.float64)
    assert np.abs(bias / (alone * input_scale)).max() > 2**31


def test_a_smallest_scale_below_the_rows_own_changes_nothing():
    weight = normal((5, 9))
    free = rounded(weight, 127)
    bounded = rounded(weight, 127, free.scale.astype(np.float64) * 0.99)
    assert np.array_equal(bounded.integers, free.integers)
    assert np.array_equal(bounded.scale, free.scale)


def test_a_smallest_scale_above_the_rows_own_is_taken():
    weight = normal((5, 9))
    smallest = rounded(weight, 127).scale.astype(np.float64) * 10
    found = rounded(weight, 127, smallest)
    assert np.array_equal(found.scale, smallest.astype(np.float32))
    assert np.array_equal(found.integers, nearest(weight, found.scale, 127))


def test_a_channel_of_zeros_takes_the_scale_that_its_bias_needs():
    found = rounded(np.zeros((1, 3)), 127, smallest_scale(np.array([-(2.0**40)]), 0.5))
    assert found.scale.tolist() == [2.0**11] and not found.integers.any()


def test_a_bias_of_zero_needs_no_scale():
    assert smallest_scale(np.zeros(3, np.float32), 0.1).tolist() == [0, 0, 0]


def test_two_products_of_the_largest_bytes_and_weights_fit_sixteen_bits():
    for top in range(256):
        limit = weight_limit(top)
        assert 1 <= limit <= 127 and 2 * top * limit <= 32767
        # The next one would not fit, or would be no int8.
        assert limit == 127 or 2 * top * (limit + 1) > 32767


def test_levels_leave_weights_all_of_int8():
    assert weight_limit(127) == weight_limit(128) == 127
    assert weight_limit(255) == 64
