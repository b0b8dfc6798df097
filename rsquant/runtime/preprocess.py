"""From a photograph to what a network is given: evaluation's resize and crop, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.crop import centre_crop
from rsquant.kernels import backends


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
    return _resampled(part, crop.resized, (crop.top, crop.left), resolution)


def evaluation_square(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The whole picture as a square, bilinear with antialiasing; for networks that give maps.

    Equals, in every pixel, that on which segmentation is evaluated.

    Args and raises: as of `evaluation_crop`.
    Returns:
        (3, R, R) uint8, contiguous.
    """
    _check(image, resolution)
    return _resampled(image, (resolution, resolution), (0, 0), resolution)


def _resampled(
    image: NDArray[np.uint8], resized: tuple[int, int], start: tuple[int, int], resolution: int
) -> NDArray[np.uint8]:
    """(3, R, R) from (row, column) `start` on of an image resized to (height, width)."""
    if image.strides[1:] != (3, 1):
        image = image.copy()
    out = np.empty((3, resolution, resolution), np.uint8)
    backends.native().crop(backends.active(), image, resized, start, out)
    return out


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
