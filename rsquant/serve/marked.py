"""A picture with what was said of it written on it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rsquant.atomic import replacing
from rsquant.decoding import Pixels
from rsquant.serve.predictor import Prediction


def marked(pixels: Pixels, prediction: Prediction) -> Image.Image:
    """The picture with its labels in a band along its lower edge."""
    picture = Image.fromarray(pixels)
    height = max(12, picture.height // 18)
    font = ImageFont.load_default(size=height)
    lines = [
        f"{label} {probability:.0%}"
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True)
    ]
    lines[0] += f"  ({prediction.resolution} px)"
    step = height * 5 // 4
    top = max(0, picture.height - step * len(lines) - height // 4)
    shade = Image.new("RGBA", (picture.width, picture.height - top), (0, 0, 0, 150))
    picture.paste(shade, (0, top), shade)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((height // 3, top + step * number), line, font=font, fill="white")
    return picture


def save(pixels: Pixels, prediction: Prediction, path: Path) -> None:
    """Write the marked picture as JPEG, whole or not at all.

    Raises:
        RsquantError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        marked(pixels, prediction).save(file, "JPEG", quality=90)
