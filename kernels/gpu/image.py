"""The image as words: one per pixel, its bytes R, G, B and 255."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 1024


def load_image(images: Tensor, out: Tensor) -> None:
    """(N, 3, H, W) uint8 to (N, H, W, 1) int32."""
    pixels = images.shape[2] * images.shape[3]
    # The second number of a grid is at most 65,535.
    grid = (len(images), triton.cdiv(pixels, _PIXELS))
    image_kernel[grid](images, out, pixels, PIXELS=_PIXELS)


@triton.jit
def image_kernel(images_ptr, out_ptr, pixels, PIXELS: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    ok = pixel < pixels
    source = images_ptr + image * 3 * pixels + pixel
    red = tl.load(source, mask=ok, other=0).to(tl.int32)
    green = tl.load(source + pixels, mask=ok, other=0).to(tl.int32)
    blue = tl.load(source + 2 * pixels, mask=ok, other=0).to(tl.int32)
    word = red | (green << 8) | (blue << 16) | -16777216  # 255 << 24
    tl.store(out_ptr + image * pixels + pixel, word, mask=ok)
