"""Multipliers of codes: rounded so that 16 bits compute what float32 does, docs/integer.md."""

from fractions import Fraction

import numpy as np

from rsquant.packed import integers


def slopes(count=4000):
    """Of all sizes and signs, and some where the rounding begins and ends."""
    rng = np.random.default_rng(0)
    some = np.exp2(rng.uniform(-16, 4, count)) * rng.choice([-1, 1], count)
    ends = [2.0**-7, 1.0, 2.0**-6, np.nextafter(1.0, 0), np.nextafter(2.0**-7, 0), 257 / 2**15]
    return np.concatenate([some, ends, np.negative(ends)])


def test_multipliers_are_the_nearest_odd_parts_of_32768():
    given = slopes()
    found, _ = integers.into_bytes(given, np.zeros_like(given), 1.0, True)
    for a, b in zip(given, found, strict=True):
        if not 2.0**-7 <= abs(a) < 1:
            assert b == np.float32(a)
            continue
        parts = Fraction(float(b)) * 2**15
        assert parts.denominator == 1
        assert parts.numerator % 2 == 1
        assert 256 < abs(parts) < 2**15
        assert (a < 0) == (b < 0)
        assert abs(parts - Fraction(a) * 2**15) <= 1


def test_the_shift_is_kept():
    """B is of the rounded multiplier: y at n = 0 is off by half a unit of n, not by 1/256 of it."""
    rng = np.random.default_rng(1)
    slope, shift = slopes(), rng.normal(0, 40, 4012)
    a, bias = integers.into_bytes(slope, shift, 0.25, True)
    assert (np.abs(a.astype(np.float64) * bias - 4 * shift) <= 0.500001 * np.abs(a)).all()


def test_codes_are_alike_in_16_bits_and_in_float32():
    """(x m + 2^14) >> 15 of x limited to 16 bits, against the definition, around every end."""
    ends = np.concatenate([at + np.arange(-300, 301) for at in (0, 2**13, 2**14, 2**15, 2**16)])
    n = np.concatenate([ends, -ends, np.random.default_rng(2).integers(-(2**24), 2**24, 2000)])
    for m in (257, 259, 511, 1001, 8191, 16385, 32765, 32767):
        for sign in (1, -1):
            a = np.array([sign * m / 2**15], np.float32)
            code = integers.to_codes(n[:, None], a, np.zeros(1, np.int32), -128, 127)[:, 0]
            x = np.clip(n, -(2**15), 2**15 - 1)
            np.testing.assert_array_equal(code, np.clip((x * sign * m + 2**14) >> 15, -128, 127))
