"""BatchNorm, ReLU and quantizer folded into one multiplication, one addition and thresholds.

Everything is float64 until the last rounding. Thresholds are kept as pairs (threshold, sign):

    code = number of k with sign * u > threshold[k]        sign is +1 or -1, per channel

and are moved backwards, from a step's result u to its input, until u is what the machine has.
+inf is never exceeded, -inf always.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.plan import QuantizerSpec
from rsquant.settings import Blend

Float64Array = NDArray[np.float64]
Thresholds = tuple[Float64Array, Float64Array]

INT32 = np.iinfo(np.int32)


def blended(table: NDArray[np.float32], rows: Blend) -> Float64Array:
    """(4, C): gamma, beta, mean and variance at a size, of a table (4, S, C).

    Args:
        rows: from `settings.blend`.
    """
    upper, lower, weight = rows
    one = table[:, upper].astype(np.float64)
    if weight == 0:
        return one
    mixed: Float64Array = one + weight * (table[:, lower].astype(np.float64) - one)
    return mixed


def affine(norm: Float64Array, eps: float) -> tuple[Float64Array, Float64Array]:
    """A BatchNorm as a x + b: a = gamma / sqrt(var + eps), b = beta - mean a.

    Args:
        norm: (4, C): gamma, beta, mean, var.
    Returns:
        a, b: (C,).
    """
    gamma, beta, mean, var = norm
    a = gamma / np.sqrt(var + eps)
    return a, beta - mean * a


def of_quantizer(quantizer: QuantizerSpec) -> Thresholds:
    """A quantizer's thresholds for the values it quantizes: (L - 1, 1), and a sign (1,) of +1.

    The same for all channels, until an affine map is passed.
    """
    return quantizer.thresholds[:, None], np.ones(1)


def before_clip(after: Thresholds, relu: bool, clip: float | None) -> Thresholds:
    """Thresholds for v, given those for u = min(max(v, 0) if relu, clip).

    u > t:   never if clip <= t;  always if relu and t < 0;  else v > t
    u < -t:  always if clip < -t;  never if relu and -t <= 0;  else v < -t
    """
    threshold, sign = after
    if not relu and clip is None:
        return after
    bound = threshold * sign  # what u is compared with
    rising = sign > 0
    moved = threshold
    if relu:
        moved = np.where(rising & (bound < 0), -np.inf, moved)
        moved = np.where(~rising & (bound <= 0), np.inf, moved)
    if clip is not None:
        moved = np.where(rising & (clip <= bound), np.inf, moved)
        moved = np.where(~rising & (clip < bound), -np.inf, moved)
    return moved, sign


def before_affine(after: Thresholds, a: Float64Array, b: Float64Array) -> Thresholds:
    """Thresholds for v, given those for u = a v + b, a and b of shape (C,).

    sign u > t  is  (sign a) v > t - sign b:  divided by |a|, with the sign of a in the sign.
    Where a = 0 it is  sign b > t  for every v: always or never.
    """
    threshold, sign = after
    rest = threshold - sign * b
    dead = a == 0
    if dead.any():
        rest = np.where(dead, np.where(rest < 0, -np.inf, np.inf), rest)
        a = np.where(dead, 1.0, a)
    with np.errstate(over="ignore"):
        # What overflows is out of every value's reach, as an infinity says.
        return rest / np.abs(a), np.where(a < 0, -sign, sign)


def to_integers(thresholds: Float64Array) -> NDArray[np.int32]:
    """For integers n: n > t is n > floor(t). Clamped: every accumulator lies inside int32."""
    return np.clip(np.floor(thresholds), INT32.min, INT32.max).astype(np.int32)


def to_float32(thresholds: Float64Array) -> NDArray[np.float32]:
    """For float32 v: v > t is v > (the largest float32 that is at most t)."""
    with np.errstate(over="ignore"):
        rounded = thresholds.astype(np.float32)
    return np.where(
        rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded
    ).astype(np.float32)
