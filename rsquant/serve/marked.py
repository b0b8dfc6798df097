"""A picture with what was said of it: labels written on it, or the colours of its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rsquant.atomic import replacing
from rsquant.decoding import Pixels
from rsquant.errors import ConfigError
from rsquant.overlay import UNKNOWN, overlaid, palette, save_mask
from rsquant.serve.predictor import Prediction


def marked(pixels: Pixels, prediction: Prediction) -> Image.Image:
    """The picture with its labels in a band along its lower edge."""
    picture = Image.fromarray(pixels)
    height = max(12, picture.height // 18)
    font = ImageFont.load_default(size=height)
    room = picture.width - 2 * (height // 3)
    lines = [
        _fitting(label, f" {probability:.0%}", font, room)
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True)
    ]
    size = f"  ({prediction.resolution} px)"
    if font.getlength(lines[0] + size) <= room:
        lines[0] += size
    step = height * 5 // 4
    top = max(0, picture.height - step * len(lines) - height // 4)
    shade = Image.new("RGBA", (picture.width, picture.height - top), (0, 0, 0, 150))
    picture.paste(shade, (0, top), shade)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((height // 3, top + step * number), line, font=font, fill="white")
    return picture


def _fitting(label: str, end: str, font: Any, room: int) -> str:
    """A line of at most so many pixels; a label that is too long is cut."""
    cut, dots = label, ""
    while cut and font.getlength(f"{cut}{dots}{end}") > room:
        cut, dots = cut[:-1], "..."
    return f"{cut}{dots}{end}"


def coloured(pixels: Pixels, prediction: Prediction) -> Image.Image:
    """The picture under its classes' colours, and a legend of the labels beside it.

    Args:
        prediction: with a mask.
    """
    assert prediction.mask is not None
    picture = overlaid(prediction.mask.astype(np.uint8), pixels)
    height = min(24, max(11, picture.height // 30))
    font = ImageFont.load_default(size=height)
    numbers = np.bincount(prediction.mask.ravel())
    order = np.argsort(-numbers, kind="stable")[: len(prediction.labels)]
    lines = [
        f"{label} {share:.0%}"
        for label, share in zip(prediction.labels, prediction.probabilities, strict=True)
    ]
    step = height * 3 // 2
    side = round(max(font.getlength(line) for line in lines)) + 3 * height
    page = Image.new(
        "RGB", (picture.width + side, max(picture.height, step * len(lines) + height)), "white"
    )
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for row, (line, number) in enumerate(zip(lines, order, strict=True)):
        left, top = picture.width + height // 2, height // 2 + row * step
        colour = tuple(map(int, palette()[number]))
        draw.rectangle((left, top, left + height, top + height), fill=colour, outline="black")
        draw.text((left + height * 3 // 2, top), line, font=font, fill="black")
    return page


def save(pixels: Pixels, prediction: Prediction, path: Path) -> list[Path]:
    """Write the marked picture as JPEG, whole or not at all; of a mask also the classes.

    These are in a palette file of the same name, .png.

    Returns:
        What was written.
    Raises:
        RsquantError: it cannot be written. ConfigError: more classes than a palette has.
    """
    if prediction.mask is not None and int(prediction.mask.max()) >= UNKNOWN:
        raise ConfigError(
            f"save: a palette file has classes 0 to {UNKNOWN - 1}, this mask class "
            f"{int(prediction.mask.max())}; leave it out"
        )
    with replacing(path) as temporary, temporary.open("wb") as file:
        draw = marked if prediction.mask is None else coloured
        draw(pixels, prediction).save(file, "JPEG", quality=90)
    if prediction.mask is None:
        return [path]
    classes = path.with_suffix(".png")
    with replacing(classes) as temporary:
        save_mask(prediction.mask, temporary)
    return [path, classes]
