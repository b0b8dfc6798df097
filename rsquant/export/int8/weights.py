"""Weights as int8, a scale per output channel.

Older processors (x86 without VNNI) multiply pairs of bytes and int8 weights into 16 bits, and
onnxruntime lets that saturate. So weights are bounded: 2 * largest byte * largest weight <= 32,767.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A bias must fit 32 bits beside its sum.
_BIAS_LIMIT = 2.0**30
# Values of a row: the levels of 4 bits.
_FEW = 16
_NOISE = 1e-6


@dataclass(frozen=True)
class IntWeights:
    """weight[o] = scale[o] * integers[o].

    Attributes:
        integers: (O, ...) int8. scale: (O,) float32, above 0.
    """

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]

    def values(self) -> NDArray[np.float64]:
        """(O, ...) what the integers stand for."""
        shape = (-1, *(1,) * (self.integers.ndim - 1))
        return self.integers * self.scale.astype(np.float64).reshape(shape)


def weight_limit(top: int) -> int:
    """The largest weight beside bytes up to `top`."""
    return min(127, 32767 // (2 * max(top, 1)))


def round_weights(
    weight: NDArray[np.floating], limit: int, smallest: NDArray[np.float64]
) -> IntWeights:
    """Weights as integers of at most `limit`, each row with the scale that suits it best.

    A row of few values, as a table of levels is, takes the number of steps for which they are
    nearest to integers: two magnitudes then are off by 1e-4 rather than 4e-3, and the levels of a
    network that was trained on a grid are exact. Rows of many values take `limit` steps.

    Args:
        weight: (O, ...).
        limit: largest integer.
        smallest: (O,) the scale must be at least this, see `smallest_scale`.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    steps = np.full(len(rows), float(limit))
    if rows.shape[1] <= _FEW:
        least = np.full(len(rows), np.inf)
        unit = rows / np.where(largest > 0, largest, 1)[:, None]
        for count in range(1, limit + 1):
            error = np.abs(unit - np.rint(unit * count) / count).max(1)
            # Fewer steps win where more are no better but for float32 rounding of the weights.
            better = error < least - _NOISE
            steps[better] = limit // count * count
            least = np.where(better, error, least)
    scale = np.maximum(largest / steps, smallest).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0  # a channel of zeros
    integers = np.rint(rows / scale.astype(np.float64)[:, None])
    integers = np.clip(integers, -limit, limit).astype(np.int8)
    return IntWeights(integers.reshape(weight.shape), scale)


def smallest_scale(bias: NDArray[np.floating], input_scale: float) -> NDArray[np.float64]:
    """(O,) the weight scale below which a bias does not fit 32 bits."""
    return np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)
