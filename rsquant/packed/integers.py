"""The arithmetic of integer networks: one float32 sequence from an integer to a byte.

What a layer makes of an integer n (a sum of products, a pooled sum, a scaled byte) is

    y = a * float32(n + B)                   a float32, B int32, both per channel
    code = min(max(round(y), low), high)     halves go to the even integer

Each operation rounds once. `n + B` is an int32 and is rounded to float32 where it exceeds 2^24; B
has at most 24 significant bits, so a float32 addition of n (|n| <= 2^24) and B gives the same
number. This is the arithmetic of ONNX's QLinearConv, so PyTorch, the kernels and onnxruntime agree
in every code.

A quantizer behind it compares round(y) with integers, which is a comparison of n with an integer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsquant.packed.fold import affine

# The largest byte.
BYTE_TOP = 255
# |n| of every sum: what float32 holds exactly.
SUM_LIMIT = 2**24
# |B| at most: n + B is an int32 then.
BIAS_LIMIT = 2**30
# A byte that is mapped by a BatchNorm is multiplied by this first, so that B is fine enough.
BYTE_WEIGHT = 64
# |weight| at most for layers that read bytes: two products, 2 * 255 * 64 = 32,640, fit 16 bits
# (VPMADDUBSW, in our kernels and in onnxruntime's, saturates beyond).
WEIGHT_LIMIT = 64
# The multiplier of codes with a sign is, from this on and up to 1, an odd multiple of the unit:
# kernels/cpu/byte_words.h says what for. It differs by a unit at most, 1/256 of it.
LEAST_ROUNDED = 2.0**-7
MULTIPLIER_UNIT = 2.0**-15
# Of a quantizer whose levels are all 0: what it gives is 0 whatever the codes are.
LEAST_STEP = 1e-20
_TINY = float(np.finfo(np.float32).tiny)


def multiplier_and_bias(
    slope: ArrayLike, shift: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """y = slope n + shift as y = a (n + B).

    B is shift / a rounded to an integer of 24 significant bits. Where it would exceed 2^30 (a
    slope of nearly 0), a is as large as keeps it there: y is then off by n / 2^30 of the shift.

    Args:
        slope, shift: (C,), finite; what one unit of n adds to y, and y at n = 0.
    Returns:
        a, B: (C,). a is never 0.
    """
    slope = np.asarray(slope, np.float64)
    shift = np.asarray(shift, np.float64)
    least = np.maximum(np.abs(shift) / BIAS_LIMIT, _TINY)
    # Up to the next float32, lest the quotient exceed the limit.
    least = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    a = np.where(np.abs(slope) < least, np.where(slope < 0, -least, least), slope)
    a = a.astype(np.float32)
    bias = np.rint(shift / a.astype(np.float64)).astype(np.float32)
    return a, bias.astype(np.int32)


def slope_and_shift(
    weight_scale: ArrayLike, input_step: float, bias: ArrayLike, norm: ArrayLike | None, eps: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a layer's integers are worth: value = slope n + shift, in float64.

    Args:
        weight_scale: (C,) float32, what a weight of 1 is worth; 1 / BYTE_WEIGHT for a map.
        input_step: float64, what an input of 1 is worth.
        bias: (C,) float32 of the layer, or 0.
        norm: (4, C) float64 as `fold.blended` gives it; None for no BatchNorm.
        eps: of the BatchNorm.
    """
    slope = np.asarray(weight_scale, np.float64) * input_step
    shift = np.asarray(bias, np.float64) + np.zeros_like(slope)
    if norm is None:
        return slope, shift
    a, b = affine(np.asarray(norm, np.float64), eps)
    return a * slope, a * shift + b


def into_bytes(
    slope: ArrayLike, shift: ArrayLike, step: float, signed: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """a and B of codes: y = (slope n + shift) / step.

    Args:
        signed: of codes from -128 to 127, whose a is rounded by `odd_multiple`.
    """
    step = max(step, LEAST_STEP)
    slope = np.asarray(slope, np.float64) / step
    return multiplier_and_bias(odd_multiple(slope) if signed else slope, np.asarray(shift) / step)


def odd_multiple(slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest odd multiple of 2^-15 where 2^-7 <= |slope| < 1; elsewhere as it is.

    n + B times such a number is rounded alike in float32 and in 16 bits, and is never halfway
    between two codes of -128 to 127.
    """
    size = np.abs(slope)
    odd = 2 * np.floor(size / (2 * MULTIPLIER_UNIT)) + 1
    inside = (size >= LEAST_ROUNDED) & (size < 1)
    found: NDArray[np.float64] = np.where(inside, np.copysign(odd * MULTIPLIER_UNIT, slope), slope)
    return found


def into_levels(
    slope: ArrayLike, shift: ArrayLike, step: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """a and B of a quantizer's levels: y = (slope n + shift) / (step / 2) + 1/2."""
    half = max(step, LEAST_STEP) / 2
    return multiplier_and_bias(np.asarray(slope) / half, np.asarray(shift) / half + 0.5)


def average(input_step: float, step: float, pixels: ArrayLike) -> NDArray[np.float32]:
    """a of average poolings of so many pixels, of any shape; their B is 0."""
    counts = np.asarray(pixels, np.float64)
    return np.asarray(input_step / (max(step, LEAST_STEP) * counts), np.float32)


def clipped_at(clip: float, step: float) -> int:
    """The code of a ReLU6's 6, at most 2^24: what bytes are limited to.

    Levels are limited exactly: a bound of `into_levels` with clip <= step / 2 * bound is never
    exceeded.
    """
    return int(min(np.rint(clip / max(step, LEAST_STEP)), SUM_LIMIT))


def scaled(n: NDArray[Any], a: NDArray[np.float32], bias: NDArray[np.int32]) -> NDArray[np.float32]:
    """y = a * float32(n + B), one float32 rounding for each operation.

    Args:
        n: (..., C) integers of any dtype, |n| <= 2^30.
        a, bias: (C,).
    """
    return a * (n.astype(np.int32) + bias).astype(np.float32)


def to_codes(
    n: NDArray[Any], a: NDArray[np.float32], bias: NDArray[np.int32], low: int, high: int
) -> NDArray[np.int32]:
    """min(max(round(y), low), high) of `scaled`, halves to even."""
    return np.rint(np.clip(scaled(n, a, bias), low, high)).astype(np.int32)


def thresholds(
    a: NDArray[np.float32], bias: NDArray[np.int32], bounds: ArrayLike
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """For which n round(y) exceeds integers: round(y) > bounds[k]  is  sign * n > t[k], exactly.

    y is monotonic in n, so there is one such t: bisection on the float32 sequence itself.

    Args:
        a, bias: (C,).
        bounds: (L - 1,) integers.
    Returns:
        t: (L - 1, C) int32, at most 2^24 in size (beyond it: always, or never, for |n| <= 2^24).
        sign: (C,) int8, +1 or -1, of `a`.
    """
    sign = np.where(a < 0, -1, 1).astype(np.int8)
    size, moved = np.abs(a), sign * bias
    wanted = np.asarray(bounds, np.float32)[:, None]

    # Nearly always t is the solution in real numbers, rounded down: two looks tell.
    with np.errstate(over="ignore"):
        real = np.floor((wanted + 0.5) / size.astype(np.float64) - moved)
    found = np.minimum(np.maximum(real, -SUM_LIMIT - 1), SUM_LIMIT).astype(np.int32)

    exceeded = _exceeding(size, moved, wanted)
    # Beyond the limits it is said to be exceeded, or not.
    above = exceeded(found) & (found >= -SUM_LIMIT)
    below = ~exceeded(found + 1) & (found < SUM_LIMIT)
    rest = np.nonzero(above | below)
    if len(rest[0]):
        of = size[rest[1]], moved[rest[1]], wanted[rest[0], 0]
        found[rest] = _bisected(*of, near=found[rest])
    return found, sign


# How far from `near` a threshold is looked for first: n + B of at most 2^30 is off by up to 32 as a
# float32.
_NEAR = 64


def _bisected(
    size: NDArray[np.float32],
    moved: NDArray[np.int32],
    wanted: NDArray[np.float32],
    near: NDArray[np.int32],
) -> NDArray[np.int32]:
    """The largest n with round(size * float32(n + moved)) <= wanted, all (N,); see `thresholds`."""

    exceeded = _exceeding(size, moved, wanted)
    low = np.maximum(near - _NEAR, -SUM_LIMIT - 1)
    low = np.where(exceeded(low), -SUM_LIMIT - 1, low)  # not exceeded here
    high = np.minimum(near + _NEAR, SUM_LIMIT + 1)
    high = np.where(exceeded(high), high, SUM_LIMIT + 1)  # exceeded here
    while (high - low > 1).any():
        middle = (low + high) >> 1
        above = exceeded(middle)
        high = np.where(above, middle, high)
        low = np.where(above, low, middle)
    return low


def _exceeding(
    size: NDArray[np.float32], moved: NDArray[np.int32], wanted: NDArray[np.float32]
) -> Callable[[NDArray[np.int32]], NDArray[np.bool_]]:
    """Whether round(size * float32(n + moved)) > wanted, of n; all of shapes that go together."""

    def exceeded(n: NDArray[np.int32]) -> NDArray[np.bool_]:
        return np.rint(scaled(n, size, moved)) > wanted

    return exceeded
