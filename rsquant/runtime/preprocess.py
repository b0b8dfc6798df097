"""From a photograph to what a network is given: evaluation's resize and crop, in numpy."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.crop import centre_crop

# torch's resize of uint8 has weights in as many fractional bits as int16 holds of the largest one,
# and at most 22.
_LARGEST_WEIGHT = 2**15
_MOST_BITS = 22
# Rows resized at once: what they and their sums take stays in the caches.
_ROWS = 64


def evaluation_crop(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Short side to int(resolution / 0.875), bilinear with antialiasing, then the centre.

    Equals `rsquant.data.evaluation_crop`, on which networks are evaluated, in every pixel: both
    compute the same integers. Only what the centre depends on is computed.

    Args:
        image: (H, W, 3) uint8, R G B, as decoders give it; any H and W.
        resolution: R in pixels.
    Returns:
        (3, R, R) uint8, contiguous: stacked to (N, 3, R, R), what a session is called with.
    Raises:
        TypeError: another dtype. ValueError: another shape, no pixels, a resolution below 1.
    """
    _check(image, resolution)
    crop = centre_crop(image.shape[0], image.shape[1], resolution)
    top, left, height, width = crop.strip
    part = image[top : top + height, left : left + width]
    rows = _windows(height, crop.resized[0], crop.top, resolution)
    columns = _windows(width, crop.resized[1], crop.left, resolution)
    return _resampled(part, rows, columns)


def evaluation_square(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The whole picture as a square, bilinear with antialiasing; for networks that give maps.

    Equals, in every pixel, that on which segmentation is evaluated.

    Args and raises: as of `evaluation_crop`.
    Returns:
        (3, R, R) uint8, contiguous.
    """
    _check(image, resolution)
    rows, columns = (_windows(side, resolution, 0, resolution) for side in image.shape[:2])
    return _resampled(image, rows, columns)


def _resampled(image: NDArray[np.uint8], rows: _Windows, columns: _Windows) -> NDArray[np.uint8]:
    """(H, W, 3) to (3, rows, columns), of windows along both axes."""
    needed = slice(int(rows.pixels.min()), int(rows.pixels.max()) + 1)
    # The width first, and rounded in between, as torch does.
    narrow = np.empty((image[needed].shape[0], len(columns.pixels), 3), np.uint8)
    for start in range(0, len(narrow), _ROWS):
        block = image[needed][start : start + _ROWS].transpose(1, 0, 2)
        narrow[start : start + _ROWS] = _resize(block, columns).transpose(1, 0, 2)
    below = replace(rows, pixels=rows.pixels - needed.start)
    return np.ascontiguousarray(_resize(narrow, below).transpose(2, 0, 1))


@dataclass(frozen=True)
class _Windows:
    """What some output pixels of an axis are made of.

    Attributes:
        pixels: (count, taps) of the input.
        weights: (count, taps) in units of 2**-bits; 0 for taps beyond a window.
    """

    pixels: NDArray[np.int64]
    weights: NDArray[np.int32]
    bits: int


# A camera's pictures have one size: their windows are made once.
@functools.lru_cache(maxsize=64)
def _windows(length: int, resized: int, start: int, count: int) -> _Windows:
    """The windows of `count` output pixels from `start` on.

    A window is a triangle as wide as two input pixels, or two output pixels where those are larger,
    cut off at the borders, its weights adding up to 1. The largest weight of the whole axis decides
    how many bits they have.

    Args:
        length, resized: of the axis, before and after.
    """
    scale = length / resized
    reach = max(scale, 1.0)
    centres = scale * (np.arange(resized) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    taps = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs((taps - centres[:, None] + 0.5) * (1 / reach))
    weights = np.where((distance < 1) & (taps < last[:, None]), 1 - distance, 0.0)
    weights /= weights.sum(1, keepdims=True)
    bits = _fraction_bits(float(weights.max()))
    fixed = np.floor(weights * 2**bits + 0.5).astype(np.int32)
    kept = slice(start, start + count)
    pixels, weights = np.minimum(taps, length - 1)[kept], fixed[kept]
    pixels.flags.writeable = weights.flags.writeable = False
    return _Windows(pixels, weights, bits)


def _resize(image: NDArray[np.uint8], windows: _Windows) -> NDArray[np.uint8]:
    """Weighted sums along the first axis in fixed point, rounded to whole numbers, ties up.

    Sums fit 32 bits: weights add up to 1, which is 2**22 or less, and half a unit per tap.
    """
    shape = len(windows.pixels), *image.shape[1:]
    sums = np.full(shape, 1 << windows.bits - 1, np.int32)
    for pixels, weights in zip(windows.pixels.T, windows.weights.T, strict=True):
        sums += weights[:, None, None] * image[pixels]
    return np.clip(sums >> windows.bits, 0, 255).astype(np.uint8)


def _fraction_bits(largest: float) -> int:
    """How many fractional bits a weight has, for the largest of an axis."""
    bits = 0
    while bits < _MOST_BITS and math.floor(largest * 2 ** (bits + 1) + 0.5) < _LARGEST_WEIGHT:
        bits += 1
    return bits


def _check(image: Any, resolution: int) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(
            f"image: must be a numpy array of uint8, got {given}; "
            "pass the pixels as decoded, 0 to 255"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image: must be (H, W, 3), R G B, got {image.shape}; convert other images first, "
            "with Pillow by image.convert('RGB')"
        )
    if 0 in image.shape:
        raise ValueError(f"image: has no pixels, shape {image.shape}")
    if resolution < 1:
        raise ValueError(f"resolution: must be 1 or more, got {resolution}")
