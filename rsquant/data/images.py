"""One image file -> one uint8 RGB tensor."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

# Only self-contained raster formats: opening EPS, for one, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
MAX_PIXELS = 100_000_000


class UnreadableImage(Exception):
    """An image that cannot be turned into RGB pixels; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(source: str | Path | bytes, min_side: int | None = None) -> Tensor:
    """Decode an image file to RGB.

    Gray, palette, CMYK, alpha, 1-bit and 16-bit images are converted; alpha is dropped, and
    EXIF orientation ignored, as torchvision and every published ImageNet figure do.

    Args:
        source: a path, or the file's bytes.
        min_side: pixels. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both
            sides keep at least this many. None: full size.
    Returns:
        (3, H, W) uint8, a view of (H, W, 3) memory.
    Raises:
        UnreadableImage: missing, truncated, not an image, too large, or of an unsupported mode.
    """
    with warnings.catch_warnings():
        # Pillow warns on large images and odd metadata; the first is checked below.
        warnings.simplefilter("ignore")
        try:
            with Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
            ) as image:
                if min_side is not None:
                    image.draft(None, (min_side, min_side))
                return rgb_tensor(image)
        except UnreadableImage:
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            raise UnreadableImage(_reason(error, source)) from error


def rgb_tensor(image: Image.Image) -> Tensor:
    """RGB pixels of an opened PIL image: (3, H, W) uint8, a view of (H, W, 3) memory.

    Raises:
        UnreadableImage: more than MAX_PIXELS, or mode F, LAB or another without an RGB meaning.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} is more than {MAX_PIXELS // 10**6} megapixels")
    if image.mode.startswith("I"):
        # Pillow's own convert clips at 255; 65535 = 257 * 255.
        wide = np.asarray(image).astype(np.int64)
        gray = ((wide.clip(0, 65535) + 128) // 257).astype(np.uint8)
        pixels = np.repeat(gray[:, :, None], 3, axis=2)
    elif image.mode in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK",
                        "YCbCr", "HSV"):  # fmt: skip
        if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
            # Pillow has no way from these straight to RGB that keeps the colours.
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        pixels = np.array(image.convert("RGB"))
    else:
        raise UnreadableImage(f"mode {image.mode} is not supported")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _reason(error: Exception, source: str | Path | bytes) -> str:
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
