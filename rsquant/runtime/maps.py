"""From maps of logits to what is wanted of each pixel of an image: all logits, or the best class.

As `rsquant.tasks.segmentation` does: bilinear, corners not aligned, then the class with the largest
logit.
"""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import ModelError
from rsquant.packed.fields import Pair
from rsquant.packed.plan import MAX_SIDE
from rsquant.packed.resampling import linear

# A mask is uint8; beyond so many classes it is uint16.
_BYTE_CLASSES = 256


def resized(logits: NDArray[np.float32], size: Pair) -> NDArray[np.float32]:
    """Maps (N, C, h, w) at another height and width, bilinear, as torch's `interpolate`.

    Each output is (a c0 + b c1) r0 + (c c0 + d c1) r1, of four neighbours, in float32.

    Args:
        size: height and width of the result.
    Returns:
        (N, C, *size) float32; `logits` themselves where they have that size.
    """
    if logits.shape[-2:] == tuple(size):
        return logits
    rows, weights = _taps(logits.shape[-2], size[0])
    wide = _widened(logits, size[1])
    return np.asarray(
        wide[..., rows[0], :] * weights[0] + wide[..., rows[1], :] * weights[1], np.float32
    )


def likeliest(logits: NDArray[np.float32], size: Pair) -> NDArray[Any]:
    """The class of each pixel, (N, *size), of maps (N, C, h, w): that of the largest logit of
    `resized`, the first of several.

    Class by class, so that what is worked on stays in the caches.

    Returns:
        uint8, or uint16 of more than 256 classes.
    """
    kind = np.uint8 if logits.shape[1] <= _BYTE_CLASSES else np.uint16
    rows, weights = _taps(logits.shape[-2], size[0])
    masks = np.zeros((len(logits), *size), kind)
    for mask, image in zip(masks, logits, strict=True):
        best: NDArray[np.float32] | None = None
        for number, one in enumerate(_widened(image, size[1])):
            plane = one[rows[0]] * weights[0]
            plane += one[rows[1]] * weights[1]
            if best is None:
                best = plane
                continue
            np.copyto(mask, number, where=plane > best)
            np.maximum(best, plane, out=best)
    return masks


def _taps(side: int, out: int) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The two neighbours of each of `out` pixels, and their weights (out, 1)."""
    pixels, weights = linear(side, out, None, align_corners=False)
    return (pixels[:, 0], pixels[:, 1]), (weights[:, :1], weights[:, 1:])


def _widened(maps: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Maps (..., h, w) at another width: first, as there are fewer rows then."""
    pixels, weights = linear(maps.shape[-1], width, None, align_corners=False)
    wide = maps[..., pixels[:, 0]] * weights[:, 0]
    wide += maps[..., pixels[:, 1]] * weights[:, 1]
    return np.asarray(wide, np.float32)


def check_maps(gives_maps: bool, what: str) -> None:
    """Refuse what only maps have.

    Raises:
        ModelError: the network gives one prediction per image.
    """
    if not gives_maps:
        raise ModelError(
            f"{what}: this network gives logits (N, classes) of whole images; call it for these"
        )


def wanted_size(size: Pair | None, images: Any) -> Pair:
    """Height and width of a result: those that are given, or the images'.

    Raises:
        ValueError: not two whole numbers from 1 to MAX_SIDE.
    """
    if size is None:
        height, width = images.shape[2:]
        return height, width
    try:
        height, width = map(index, size)
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(
            f"size: must be height and width, each 1 to {MAX_SIDE} pixels, got {size!r}"
        )
    return height, width
