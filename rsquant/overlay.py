"""Classes of pixels as pictures: a palette file, and their colours over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsquant.decoding import Pixels

# Of label maps: a pixel of no known class.
UNKNOWN = 255
# How much of an overlay is the class's colour.
_SHARE = 0.5


def palette() -> NDArray[np.uint8]:
    """(256, 3) uint8: a colour of each class; UNKNOWN is white.

    Bit k of a class's triples of bits goes to bit 7 - k of red, green and blue, so that classes
    that follow each other differ most: the palette of PASCAL VOC, without its black.
    """
    colours = np.zeros((256, 3), np.uint8)
    for number in range(256):
        bits = number + 1
        for shift in range(7, -1, -1):
            for channel in range(3):
                colours[number, channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
    colours[UNKNOWN] = 255
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
