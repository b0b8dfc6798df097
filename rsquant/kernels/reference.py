"""The specification of every kernel: plain, slow numpy, float64 where it adds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def thresholds(levels: Float32Array) -> Float32Array:
    """Halfway between neighbours: float32 0.5 * (levels[k] + levels[k + 1]), shape (L - 1,)."""
    halfway: Float32Array = np.float32(0.5) * (levels[:-1] + levels[1:])
    return halfway


def quantize_stats(
    x: Float32Array, levels: Float32Array
) -> tuple[Float32Array, NDArray[np.int64], NDArray[np.float64]]:
    """Each value's level, and per level how many values took it and their sum.

    code(x) = number of thresholds t with x > t;  out = levels[code]. A value on a threshold goes
    down; NaN exceeds nothing and takes level 0.

    Args:
        x: float32, any shape.
        levels: (L,) float32, ascending.
    Returns:
        out, shape of `x`; counts (L,) int64; sums (L,) float64.
    Source: the published LQ-Nets code; paper arXiv 1807.10029.
    """
    codes = np.zeros(x.shape, dtype=np.int64)
    for threshold in thresholds(levels):
        codes += x > threshold
    flat = codes.ravel()
    counts = np.bincount(flat, minlength=levels.size).astype(np.int64)
    sums = np.bincount(flat, weights=x.ravel(), minlength=levels.size).astype(np.float64)
    return levels[codes], counts, sums


def clip_gradient(grad: Float32Array, x: Float32Array, top: float) -> Float32Array:
    """grad where x <= top, else 0 (NaN in `x` gives 0)."""
    return np.where(x <= np.float32(top), grad, np.float32(0))
