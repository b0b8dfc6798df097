"""A map as one pixel of all its numbers, channel by channel, each row by row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 1024


def flatten(x: Tensor, out: Tensor) -> None:
    """x (N, H, W, C) float32 to out (N, 1, 1, C H W)."""
    total, channels = out.numel(), x.shape[-1]
    flatten_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x, out, total, x.shape[1] * x.shape[2], channels, ELEMENTS=_ELEMENTS
    )


@triton.jit
def flatten_kernel(x_ptr, out_ptr, total, pixels, channels, ELEMENTS: tl.constexpr):
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    image = element // (pixels * channels)
    channel = element // pixels % channels
    where = (image * pixels + element % pixels) * channels + channel
    tl.store(out_ptr + element, tl.load(x_ptr + where, mask=ok, other=0.0), mask=ok)
