"""Maps put together along their channels: each is copied to its place."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 1024


def concat(inputs: Sequence[Tensor], out: Tensor) -> None:
    """(N, H, W, C_i) float32 each into (N, H, W, C), one after the other."""
    first = 0
    for x in inputs:
        total = x.numel()
        concat_kernel[(triton.cdiv(total, _ELEMENTS),)](
            x, out, total, x.shape[-1], out.shape[-1], first, ELEMENTS=_ELEMENTS
        )
        first += x.shape[-1]


@triton.jit
def concat_kernel(x_ptr, out_ptr, total, channels, out_channels, first, ELEMENTS: tl.constexpr):
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    where = element // channels * out_channels + first + element % channels
    tl.store(out_ptr + where, tl.load(x_ptr + element, mask=ok, other=0.0), mask=ok)
