"""One image file -> uint8 RGB pixels, without torch."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from errno import EMFILE, ENFILE, ENOMEM
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from rsquant.system import open_regular

# Only self-contained raster formats: opening EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
# What files of these formats begin with; RIFF and ISO files have their own sizes in between.
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM|GIF8[79]a|II\*\0|MM\0\*|II\+\0|MM\0\+|"
    rb"P[1-6]\s|\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51|....ftyp(avif|avis|mif1)",
    re.DOTALL,
)
MAX_PIXELS = 100_000_000
# So many are turned into RGB at a time; ordinary photographs at once.
STRIP_PIXELS = 16_000_000
_MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
)


# (H, W, 3).
Pixels = NDArray[np.uint8]


class UnreadableImage(Exception):
    """An image that cannot be turned into RGB pixels; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(source: str | Path | bytes, min_side: int | None = None) -> Pixels:
    """Decode an image file to RGB.

    Gray, palette, CMYK, alpha, 1-bit, 12-bit and 16-bit images are converted; alpha is dropped.
    Images are turned upright as their EXIF orientation says, which torchvision does not do.

    Args:
        source: a path, or the file's bytes.
        min_side: pixels. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both
            sides keep at least this many. None: full size.
    Returns:
        (H, W, 3) uint8, contiguous.
    Raises:
        UnreadableImage: missing, truncated, not an image or not a file, too large, or of an
            unsupported mode.
        MemoryError: the machine has too little memory; the image may be a good one.
        OSError: the process has too many files open; the same.
    """
    with warnings.catch_warnings():
        # Pillow warns on large images and odd metadata; the first is checked below.
        warnings.simplefilter("ignore")
        try:
            with (
                io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
                Image.open(file, formats=FORMATS) as image,
            ):
                if min_side is not None:
                    image.draft(None, (min_side, min_side))
                return rgb_pixels(image)
        except (UnreadableImage, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE, ENOMEM):
                raise
            raise UnreadableImage(reason_of(error, source)) from error


def is_image(path: str) -> bool:
    """Whether a file begins like one of FORMATS; for names without an extension."""
    try:
        with open(path, "rb") as file:
            return _SIGNATURES.match(file.read(16)) is not None
    except OSError:
        return False


def rgb_pixels(image: Image.Image) -> Pixels:
    """RGB pixels of an opened PIL image, upright: (H, W, 3) uint8, contiguous.

    Raises:
        UnreadableImage: more than MAX_PIXELS, or mode F, LAB or another without an RGB meaning.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} is more than {MAX_PIXELS // 10**6} megapixels")
    if not image.mode.startswith("I") and image.mode not in _MODES:
        raise UnreadableImage(f"mode {image.mode} is not supported")
    image.load()
    width, height = image.size  # a TIFF file may have been turned
    # A strip at a time: a file of 300 KB may hold a hundred megapixels of one bit, and Pillow's
    # conversions take several bytes for each.
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        pixels[top:bottom] = _rgb(strip, image)
    return np.ascontiguousarray(_UPRIGHT[_orientation(image)](pixels))


def _rgb(strip: Image.Image, image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels of some rows of an image: (H, W, 3), or (H, W, 1) where it is gray."""
    if strip.mode.startswith("I"):
        return _eight_bits(strip, getattr(image, "tag_v2", {}))[:, :, None]
    if strip.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        # Pillow has no way from these straight to RGB that keeps the colours.
        strip = strip.convert("LA" if strip.mode == "La" else "RGBA")
    return np.asarray(strip.convert("RGB"))


def _eight_bits(image: Image.Image, tags: Any) -> NDArray[np.uint8]:
    """(H, W) gray of more than 8 bits. Pillow's own convert clips at 255.

    Pillow gives 16 bits their whole range, but for TIFF files, where levels are as stored.

    Args:
        tags: of a TIFF file; else empty.
    """
    stored = tags.get(258, 16)  # BitsPerSample
    bits = int(stored[0]) if isinstance(stored, tuple) else int(stored)
    white = 2 ** min(bits, 16) - 1
    levels = np.asarray(image).astype(np.int64).clip(0, white)
    if tags.get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        levels = white - levels
    gray: NDArray[np.uint8] = ((levels * 510 + white) // (2 * white)).astype(np.uint8)
    return gray


# EXIF's orientation -> how (H, W, 3) pixels become upright.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x[:, ::-1].transpose(1, 0, 2),
}


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation that is still to be applied, 1 where there is none.

    Asked for after the pixels were read: Pillow turns TIFF files itself while it reads them.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # damaged metadata leaves an image that can be seen
        return 1


def reason_of(error: Exception, source: str | Path | bytes) -> str:
    """Why Pillow could not read an image, in a few words and without its path."""
    if isinstance(error, UnidentifiedImageError):
        if isinstance(source, bytes):
            empty = not source
        else:
            empty = Path(source).stat().st_size == 0
        return "empty file" if empty else "not an image in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
