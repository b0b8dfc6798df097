"""Pixels and channels of one value around a map."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 1024


def pad(x: Tensor, out: Tensor, top: int, left: int, channel: int, value: float) -> None:
    """The map with its first pixel and channel at (top, left, channel), and `value` around it.

    Args:
        x: (N, H, W, C) float32. out: (N, OH, OW, OC) float32.
        top, left: below 0 where pixels are cut off.
    """
    total = out.numel()
    pad_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x, out, total, *x.shape[1:], *out.shape[1:], top, left, channel, value, ELEMENTS=_ELEMENTS
    )


@triton.jit
def pad_kernel(
    x_ptr,
    out_ptr,
    total,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
    top,
    left,
    first,
    value,
    ELEMENTS: tl.constexpr,
):
    """Element = one channel of one output pixel."""
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    pixel = element // out_channels
    image = pixel // (out_width * out_height)
    c = element % out_channels - first
    x = pixel % out_width - left
    y = pixel // out_width % out_height - top
    inside = ok & (c >= 0) & (c < channels) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = x_ptr + ((image * height + y) * width + x) * channels + c
    found = tl.load(source, mask=inside, other=0.0)
    tl.store(out_ptr + element, tl.where(inside, found, value), mask=ok)
