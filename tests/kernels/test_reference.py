"""The specification itself, against loops that spell the formulae out."""

import itertools

import numpy as np
import pytest

from rsquant.kernels import reference


def naive_conv(x, weight, stride, padding, dilation, groups, fill):
    n, height, width, _ = x.shape
    channels, kh, kw, depth = weight.shape
    oh = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, oh, ow, channels), np.int64)
    for i, y, z, o in itertools.product(range(n), range(oh), range(ow), range(channels)):
        for a, b, c in itertools.product(range(kh), range(kw), range(depth)):
            row = y * stride[0] + a * dilation[0] - padding[0]
            column = z * stride[1] + b * dilation[1] - padding[1]
            inside = 0 <= row < height and 0 <= column < width
            channel = o // (channels // groups) * depth + c
            byte = int(x[i, row, column, channel]) if inside else fill
            out[i, y, z, o] += byte * int(weight[o, a, b, c])
    return out


@pytest.mark.parametrize(
    "kernel,stride,padding,dilation,groups,fill",
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), 1, 0),
        ((3, 3), (2, 2), (1, 1), (1, 1), 1, 7),
        ((1, 1), (2, 1), (0, 0), (1, 1), 2, 0),
        ((3, 2), (1, 2), (2, 1), (2, 1), 3, 3),
        ((5, 5), (3, 1), (2, 2), (1, 1), 6, 127),
    ],
)
def test_accumulators_are_sums_of_products(kernel, stride, padding, dilation, groups, fill):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 128, (2, 7, 6, 6), dtype=np.uint8)
    weight = rng.integers(-127, 128, (12, *kernel, 6 // groups))
    acc = reference.conv_accumulators(x, weight, stride, padding, dilation, groups, fill)
    assert acc.dtype == np.int32
    expected = naive_conv(x, weight, stride, padding, dilation, groups, fill)
    np.testing.assert_array_equal(acc, expected)


def test_accumulators_are_exact_up_to_the_end_of_32_bits():
    # 255 x 127 x 66,311 is the last multiple below 2**31, far above what float32 adds exactly.
    x = np.full((1, 1, 1, 66_311), 255, np.uint8)
    weight = np.full((1, 1, 1, 66_311), 127)
    acc = reference.conv_accumulators(x, weight, (1, 1), (0, 0))
    assert acc[0, 0, 0, 0] == 255 * 127 * 66_311
    wider = np.repeat(x, 2, -1), np.repeat(weight, 2, -1)
    with pytest.raises(OverflowError, match="needs more than 32 bits"):
        reference.conv_accumulators(*wider, (1, 1), (0, 0))


def test_fixed_point_rounds_half_to_even_and_stops_at_the_limit():
    x = np.array([0.5, 1.5, -0.5, -2.5, 2.4999, 99.6, -1e38, np.inf, -np.inf], np.float32)
    found = reference.fixed_point(x / 4, 4.0, 99)
    assert found.tolist() == [0, 2, 0, -2, 2, 99, -99, 99, -99]
    assert found.dtype == np.int16
    # The product is rounded to float32 before the integer: 0.1f * 5 is 0.5, not a little more.
    assert reference.fixed_point(np.float32([0.1]), 5.0, 99).tolist() == [0]
    assert reference.fixed_point(np.float32([3e38]), 3e34, 99).tolist() == [99]


@pytest.mark.parametrize(
    ("taps", "weight", "limit"),
    [
        (64, 14, 32639),
        (2048, 32, 32639),
        (2048, 33, 31775),
        (133144, 127, 127),
        (1, 0, 32639),
    ],
)
def test_the_fixed_point_limit_keeps_sums_in_32_bits(taps, weight, limit):
    assert reference.fixed_limit(taps, weight) == limit
    assert limit * taps * weight < 2**31
    assert limit == reference.MAX_FIXED or (limit + 1) * taps * weight >= 2**31


def test_accumulators_of_fixed_point_are_sums_of_products():
    rng = np.random.default_rng(0)
    x = rng.integers(-32639, 32640, (2, 5, 6, 6), dtype=np.int16)
    weight = rng.integers(-127, 128, (4, 3, 3, 3))
    acc = reference.conv_accumulators(x, weight, (2, 1), (1, 1), groups=2)
    expected = naive_conv(x, weight, (2, 1), (1, 1), (1, 1), 2, 0)
    np.testing.assert_array_equal(acc, expected)


@pytest.mark.parametrize("taps", [1, 63, 64, 65])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weight_levels_are_an_offset_and_sums_of_the_basis(taps, bits):
    rng = np.random.default_rng(taps)
    flags = rng.integers(0, 2, (bits, 5, taps))
    basis = rng.integers(-60, 61, (5, bits)).astype(np.int16)
    offset = rng.integers(-60, 61, 5).astype(np.int8)
    planes = np.zeros((bits, 5, 8 * -(-taps // 64)), np.uint8)
    for k, o, i in itertools.product(range(bits), range(5), range(taps)):
        planes[k, o, i // 8] |= flags[k, o, i] << (i % 8)
    expected = [
        [
            int(offset[o]) + sum(int(basis[o, k]) * int(flags[k, o, i]) for k in range(bits))
            for i in range(taps)
        ]
        for o in range(5)
    ]
    np.testing.assert_array_equal(reference.weight_levels(planes, basis, offset, taps), expected)


def test_codes_count_thresholds_and_ties_go_down():
    x = np.array([[-5, 3], [0, 0], [1, -4], [9, 9]], np.int32)
    thresholds = np.array([[-5, -3], [0, 0], [8, 3]], np.int32)
    sign = np.array([1, -1], np.int8)
    levels = np.array([0, 2, 5, 9], np.uint8)
    codes = reference.to_codes(x, thresholds, sign, levels)
    np.testing.assert_array_equal(codes, [[0, 0], [2, 2], [5, 9], [9, 0]])
    ends = np.array([[-(2**31)] * 2, [2**31 - 1] * 2], np.int32)
    extreme = np.array([[2**31 - 1, -(2**31) + 1]], np.int32)
    np.testing.assert_array_equal(reference.to_codes(extreme, ends, sign, levels[:3]), [[2, 2]])


def test_clamp_applies_relu_then_clip():
    x = np.array([-1.0, 0.5, 7.0], np.float32)
    np.testing.assert_array_equal(reference.clamp(x, True, 6.0), np.float32([0, 0.5, 6]))
    np.testing.assert_array_equal(reference.clamp(x, False, np.inf), x)


@pytest.mark.parametrize(
    "kernel,stride,padding", [((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 2), (1, 0))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_max_pooling_never_takes_the_padding(kernel, stride, padding, dtype):
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 9, (2, 6, 7, 3)) - (20 if dtype == np.float32 else 0)).astype(dtype)
    out = reference.max_pool(x, kernel, stride, padding)
    assert out.dtype == dtype
    for y, z in itertools.product(range(out.shape[1]), range(out.shape[2])):
        top, left = y * stride[0] - padding[0], z * stride[1] - padding[1]
        window = x[:, max(0, top) : top + kernel[0], max(0, left) : left + kernel[1]]
        np.testing.assert_array_equal(out[:, y, z], window.max((1, 2)))


def test_the_average_adds_one_pixel_after_the_other():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    scale, shift = (rng.normal(size=3).astype(np.float32) for _ in range(2))
    out = reference.average_pool(x, scale, shift, True, 1.5)
    assert out.shape == (2, 1, 1, 3)
    for n, c in itertools.product(range(2), range(3)):
        total = np.float32(0)
        for value in x[n, :, :, c].ravel():
            v = np.float32(np.float32(value * scale[c]) + shift[c])
            total += min(max(v, np.float32(0)), np.float32(1.5))
        assert out[n, 0, 0, c] == total * np.float32(1 / 20)


@pytest.mark.parametrize("features", [1, 64, 513, 2048])
def test_the_classifier_is_a_product_to_the_input_s_rounding(features):
    rng = np.random.default_rng(features)
    x = rng.normal(size=(3, features)).astype(np.float32)
    x[1] *= 1e-20
    weight = rng.integers(-127, 128, (5, features), dtype=np.int8)
    scale, bias = (rng.uniform(0.1, 1, 5).astype(np.float32) for _ in range(2))
    logits = reference.linear(x, weight, scale, bias)
    assert logits.dtype == np.float32
    expected = x.astype(float) @ weight.T * scale + bias
    # Each input moves by at most half a step of m / limit; four float32 roundings behind that.
    limit = min(32767, (2**31 - 1) // (127 * features))
    step = np.abs(x).max(1, keepdims=True) / limit
    tolerance = 0.5 * step * np.abs(weight.astype(float)).sum(1) * scale
    assert (np.abs(logits - expected) <= tolerance * 1.001 + 4 * 2**-24 * np.abs(expected)).all()


def test_the_classifier_of_nothing_is_its_bias():
    bias = np.array([1.5, -2], np.float32)
    for tiny in (0.0, 1e-38, 9e-31):
        x = np.full((1, 4), tiny, np.float32)
        logits = reference.linear(x, np.ones((2, 4), np.int8), np.ones(2, np.float32), bias)
        np.testing.assert_array_equal(logits, bias[None])


def test_the_classifier_s_sums_fit_32_bits_at_their_largest():
    for features in (16, 1000, 65536):
        x = np.ones((1, features), np.float32)
        weight = np.full((1, features), 127, np.int8)
        limit = min(32767, (2**31 - 1) // (127 * features))
        assert limit * 127 * features < 2**31
        one = np.ones(1, np.float32)
        logits = reference.linear(x, weight, one, 0 * one)
        assert logits[0, 0] == pytest.approx(127 * features, rel=1e-6)
