"""Where evaluation cuts an image: the rule that torch, numpy and ONNX share.

The short side is resized to int(resolution / 0.875), then the centre is kept: 224 out of 256, at
the same pixel as torchvision's Resize and CenterCrop.
"""

from __future__ import annotations

from dataclasses import dataclass

# Evaluation keeps the middle 87.5 % of the short side.
CENTRE = 0.875
# An image longer than this many times its short side loses its ends first: resizing a longer strip
# would take gigabytes.
LONGEST = 64


@dataclass(frozen=True)
class Crop:
    """A cut of an image of a known size, in pixels.

    Attributes:
        strip: (top, left, height, width) of the part that is resized.
        resized: (height, width) that it is resized to.
        top, left: first row and column that is kept of it; `resolution` of both are kept.
    """

    strip: tuple[int, int, int, int]
    resized: tuple[int, int]
    top: int
    left: int


def evaluation_side(resolution: int) -> int:
    """The short side, in pixels, that an image is resized to before its centre is cut out."""
    return int(resolution / CENTRE)


def centre_crop(height: int, width: int, resolution: int) -> Crop:
    """What evaluation cuts out of an image of (height, width) pixels, both 1 or more.

    All divisions are of integers, so that an ONNX file can do the same: see `export.preprocess`.
    """
    longest = LONGEST * min(height, width)
    above, before = max(0, height - longest) // 2, max(0, width - longest) // 2
    height, width = height - 2 * above, width - 2 * before
    side, short = evaluation_side(resolution), min(height, width)
    resized = side * height // short, side * width // short
    top, left = (_half(length - resolution) for length in resized)
    return Crop((above, before, height, width), resized, top, left)


def _half(margin: int) -> int:
    """round(margin / 2), a tie to the even number."""
    return (margin + margin // 2 % 2) // 2
