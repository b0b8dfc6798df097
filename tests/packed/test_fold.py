"""Folding against the formulae themselves, evaluated in float64."""

import numpy as np
import pytest

from rsquant.packed import fold
from rsquant.packed.plan import QuantizerSpec

QUANTIZERS = [
    QuantizerSpec(2, (1, 3), 0.25),
    QuantizerSpec(3, (-1, -2, 5), 0.5),
    QuantizerSpec(1, (7,), 0.3),
    QuantizerSpec(2, (0, 0), 1.0),
]


def codes(u, folded):
    threshold, sign = folded
    return (sign * u > threshold[:, None]).sum(0)


def clamp(v, relu, clip):
    v = np.maximum(v, 0) if relu else v
    return v if clip is None else np.minimum(v, clip)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("clip", [None, 0.0, 0.25, 1.0])
def test_thresholds_pass_relu_clip_and_norm_of_any_sign(quantizer, relu, clip):
    # Numbers of few binary digits: every sum and product below is exact, ties included.
    v = np.arange(-256, 257)[:, None] / 64
    a = np.array([1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 0.0, 2.0, -4.0])
    b = np.array([0.0, 0.25, -1.0, 0.5, 0.25, -1.0, 3.0, 0.125, 0.0])
    outer = clamp(clamp(v, relu, clip) * a + b, relu, clip)
    expected = (outer[..., None] > quantizer.thresholds).sum(-1)
    moved = fold.before_clip(fold.of_quantizer(quantizer), relu, clip)
    moved = fold.before_affine(moved, a, b)
    moved = fold.before_clip(moved, relu, clip)
    folded = np.broadcast_to(moved[0], (len(moved[0]), a.size)), moved[1]
    np.testing.assert_array_equal(codes(v, folded), expected)
    # And through a second affine map, into integers.
    scale, shift = np.array([0.25, -0.5, 0.125] * 3), np.array([0.5, 0.0, -1.0] * 3)
    acc = np.arange(-40, 41)[:, None]
    outer = clamp(clamp(scale * acc + shift, relu, clip) * a + b, relu, clip)
    expected = (outer[..., None] > quantizer.thresholds).sum(-1)
    thresholds, sign = fold.before_affine(moved, scale, shift)
    integers = fold.to_integers(thresholds)
    assert integers.dtype == np.int32
    np.testing.assert_array_equal(codes(acc, (integers, sign)), expected)


def test_a_dead_channel_takes_one_level_whatever_it_reads():
    quantizer = QUANTIZERS[0]  # thresholds 0.125, 0.5, 0.875
    a, b = np.zeros(3), np.array([-1.0, 0.6, 2.0])
    folded = fold.before_affine(fold.of_quantizer(quantizer), a, b)
    for acc in (-(2**31) + 1, 0, 2**31 - 1):
        integers = (fold.to_integers(folded[0]), folded[1])
        np.testing.assert_array_equal(codes(np.full((1, 3), acc), integers), [[0, 2, 3]])


def test_integers_compare_as_the_number_they_came_from():
    thresholds = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, np.inf, -np.inf, 1e30, -1e30])
    integers = fold.to_integers(thresholds)
    for n in (-3, -2, -1, 0, 1, 2, 2**31 - 1, -(2**31) + 1):
        np.testing.assert_array_equal(n > integers, n > thresholds)


def test_float32_compares_as_the_number_it_came_from():
    rng = np.random.default_rng(0)
    near = rng.normal(size=1000).astype(np.float32)
    thresholds = near.astype(np.float64) * (1 + rng.normal(size=1000) * 1e-8)
    rounded = fold.to_float32(thresholds)
    assert rounded.dtype == np.float32
    for v in (near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))):
        np.testing.assert_array_equal(v > rounded, v.astype(np.float64) > thresholds)
    # Beyond float32: above its largest number nothing is exceeded by a finite value.
    ends = fold.to_float32(np.array([1e300, -1e300, np.inf, -np.inf]))
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(largest > ends, [False, True, False, True])
    np.testing.assert_array_equal(-largest > ends, [False, True, False, True])


def test_a_norm_is_an_affine_map_and_blends_between_rows():
    table = np.random.default_rng(0).uniform(0.5, 2, (4, 3, 5)).astype(np.float32)
    gamma, beta, mean, var = (table.astype(np.float64)[i] for i in range(4))
    a, b = fold.affine(fold.blended(table, (1, 1, 0.0)), 1e-3)
    x = 0.7
    expected = gamma[1] * (x - mean[1]) / np.sqrt(var[1] + 1e-3) + beta[1]
    np.testing.assert_allclose(a * x + b, expected, rtol=1e-14)
    mixed = fold.blended(table, (1, 2, 0.25))
    np.testing.assert_allclose(
        mixed, 0.75 * table[:, 1].astype(float) + 0.25 * table[:, 2], rtol=1e-15
    )


def test_levels_ascend_and_are_bytes():
    quantizer = QUANTIZERS[1]
    assert quantizer.zero == 3
    assert quantizer.limit == 8
    np.testing.assert_array_equal(quantizer.levels, [-3, -2, -1, 0, 2, 3, 4, 5])
    np.testing.assert_array_equal(quantizer.codes, [0, 1, 2, 3, 5, 6, 7, 8])
    halfway = np.array([-2.5, -1.5, -0.5, 1, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(quantizer.thresholds, 0.5 * halfway)
