"""Classes of pixels as pictures: a palette file, and their colours over the image."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsquant.decoding import Pixels

# Of label maps: a pixel of no known class.
UNKNOWN = 255
# How much of an overlay is the class's colour.
_SHARE = 0.5


@functools.cache
def palette() -> NDArray[np.uint8]:
    """(256, 3) uint8: a colour of each class, read-only; UNKNOWN is white.

    Each is, of a grid of 7 shades of red, green and blue, that farthest from black, white and all
    before it (squares weighted 2, 4 and 3, about as eyes see): those of few classes differ most.
    """
    shades = np.linspace(25, 225, 7).round()  # not glaring
    grid = np.stack(np.meshgrid(shades, shades, shades, indexing="ij"), -1).reshape(-1, 3)
    weights = np.array([2.0, 4.0, 3.0])
    colours = np.full((256, 3), 255, np.uint8)
    nearest = np.minimum(*((weights * (grid - end) ** 2).sum(1) for end in (0, 255)))
    for number in range(UNKNOWN):
        colours[number] = grid[nearest.argmax()]
        nearest = np.minimum(nearest, (weights * (grid - colours[number]) ** 2).sum(1))
    colours.flags.writeable = False
    return colours


def overlaid(mask: NDArray[np.uint8], image: Pixels) -> Image.Image:
    """The image, half of each pixel its class's colour.

    Args:
        mask: (H, W) classes, or UNKNOWN. image: (H, W, 3).
    """
    blended = (1 - _SHARE) * image + _SHARE * palette()[mask]
    return Image.fromarray(blended.round().astype(np.uint8))


def save_mask(mask: NDArray[np.uint8], path: Path) -> None:
    """Write (H, W) classes as a PNG file with the palette: its numbers are the classes."""
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette(palette().tobytes())
    picture.save(path, "PNG")


def save_overlay(mask: NDArray[np.uint8], image: Pixels, path: Path) -> None:
    """Write `overlaid` as a JPEG file."""
    overlaid(mask, image).save(path, "JPEG", quality=90)
