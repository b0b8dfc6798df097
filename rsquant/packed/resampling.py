"""Which pixels a resized map takes along one side, and how much of each: as torch computes it.

All in float32 and in torch's order of operations, so that the same pixels are taken.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Of 1, in the weights of bytes.
PARTS = 128

# (n, 2) int32 and float32: for each pixel of the result, two of the input, and their weights.
Taps = tuple[NDArray[np.int32], NDArray[np.float32]]


def scaled_side(side: int, scale: float) -> int:
    """floor(side * scale), of the product in float64."""
    return math.floor(side * scale)


def nearest(side: int, out: int, scale: float | None, exact: bool) -> Taps:
    """One pixel for each of `out`: floor(i * step), or floor((i + 0.5) * step) if `exact`.

    Args:
        scale: the factor that torch was given, and step = 1 / scale; None: step = side / out.
    """
    index = np.arange(out, dtype=np.int64)
    if exact:
        places = (index.astype(np.float32) + np.float32(0.5)) * _step(side, out, scale)
        found = np.minimum(np.floor(places).astype(np.int64), side - 1)
    elif out == side:
        found = index
    elif out == 2 * side:
        found = index // 2
    else:
        places = index.astype(np.float32) * _step(side, out, scale)
        found = np.minimum(np.floor(places).astype(np.int64), side - 1)
    weights = np.zeros((out, 2), np.float32)
    weights[:, 0] = 1
    return np.stack([found, found], 1).astype(np.int32), weights


def linear(side: int, out: int, scale: float | None, align_corners: bool) -> Taps:
    """Two neighbours for each of `out`, and their weights, which add up to 1.

    Args:
        scale: as of `nearest`; with `align_corners` it has no meaning.
    """
    index = np.arange(out, dtype=np.float32)
    if out == side:
        places = index
    elif align_corners:
        step = np.float32(side - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
        places = step * index
    else:
        half = np.float32(0.5)
        places = np.maximum(_step(side, out, scale) * (index + half) - half, np.float32(0))
    first = np.minimum(places.astype(np.int64), side - 1)
    second = np.minimum(first + 1, side - 1)
    upper = np.clip(places - first.astype(np.float32), 0, 1).astype(np.float32)
    weights = np.stack([np.float32(1) - upper, upper], 1)
    return np.stack([first, second], 1).astype(np.int32), weights


def in_parts(taps: Taps) -> Taps:
    """The same with weights of whole parts of `PARTS`, halves to even; they still add up to 1.

    So rounded, products of both sides' weights and a byte are exact in float32, and so are their
    sums in any order: what bytes of resized maps are (docs/integer.md).
    """
    pixels, weights = taps
    upper = np.rint(weights[:, 1] * np.float32(PARTS)) / np.float32(PARTS)
    return pixels, np.stack([np.float32(1) - upper, upper], 1).astype(np.float32)


def matrix(taps: Taps, side: int) -> NDArray[np.float32]:
    """(out, side): the weight of each of `side` pixels of the input in each of the result."""
    pixels, weights = taps
    of = np.zeros((len(pixels), side), np.float32)
    for i in range(2):  # both may be one pixel, at an edge
        np.add.at(of, (np.arange(len(pixels)), pixels[:, i]), weights[:, i])
    return of


def _step(side: int, out: int, scale: float | None) -> np.float32:
    """Pixels of the input from one of the result to the next."""
    if scale is not None:
        return np.float32(1.0 / scale)
    return np.float32(np.float32(side) / np.float32(out))
