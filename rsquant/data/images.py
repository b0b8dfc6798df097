"""One image file -> one uint8 RGB tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rsquant import decoding
from rsquant.decoding import EXTENSIONS, UnreadableImage, is_image

__all__ = ["EXTENSIONS", "UnreadableImage", "decode", "is_image", "rgb_tensor"]


def decode(source: str | Path | bytes, min_side: int | None = None) -> Tensor:
    """Decode an image file to RGB; see `rsquant.decoding.decode`.

    Returns:
        (3, H, W) uint8, a view of (H, W, 3) memory.
    """
    return _tensor(decoding.decode(source, min_side))


def rgb_tensor(image: Image.Image) -> Tensor:
    """RGB pixels of an opened PIL image; see `rsquant.decoding.rgb_pixels`.

    Returns:
        (3, H, W) uint8, a view of (H, W, 3) memory.
    """
    return _tensor(decoding.rgb_pixels(image))


def _tensor(pixels: decoding.Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)
