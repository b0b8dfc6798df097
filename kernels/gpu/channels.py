"""Some channels of a map, in another order."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 1024


def channels(x: Tensor, index: Tensor, out: Tensor) -> None:
    """Channel i of out (N, H, W, O) is channel index[i] of x (N, H, W, C), float32; index int32."""
    total = out.numel()
    channels_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x, index, out, total, x.shape[-1], out.shape[-1], ELEMENTS=_ELEMENTS
    )


@triton.jit
def channels_kernel(
    x_ptr, index_ptr, out_ptr, total, in_channels, out_channels, ELEMENTS: tl.constexpr
):
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    channel = tl.load(index_ptr + element % out_channels, mask=ok, other=0)
    where = element // out_channels * in_channels + channel
    tl.store(out_ptr + element, tl.load(x_ptr + where, mask=ok, other=0.0), mask=ok)
