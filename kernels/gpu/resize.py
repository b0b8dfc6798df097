"""A map of another height and width, of its nearest pixels or blended between four."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu.support import one_rounding

_ELEMENTS = 1024


def resize(
    x: Tensor,
    out: Tensor,
    rows: Tensor,
    row_weights: Tensor,
    columns: Tensor,
    column_weights: Tensor,
    blend: bool,
) -> None:
    """Two columns of each of two rows, blended; or the first of them alone.

    Args:
        x: (N, H, W, C) float32 or uint8. out: (N, OH, OW, C) of the same type.
        rows, columns: (OH, 2), (OW, 2) int32; their weights, the same in float32, of bytes whole
            parts of 128.
    """
    total = out.numel()
    resize_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x,
        out,
        rows,
        row_weights,
        columns,
        column_weights,
        total,
        *x.shape[1:],
        *out.shape[1:3],
        BLEND=blend,
        BYTES=x.dtype == torch.uint8,
        ELEMENTS=_ELEMENTS,
        **one_rounding(),
    )


@triton.jit
def resize_kernel(
    x_ptr,
    out_ptr,
    rows_ptr,
    row_weights_ptr,
    columns_ptr,
    column_weights_ptr,
    total,
    height,
    width,
    channels,
    out_height,
    out_width,
    BLEND: tl.constexpr,
    BYTES: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    """Element = one channel of one output pixel."""
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    channel = element % channels
    pixel = element // channels
    column = 2 * (pixel % out_width)
    row = 2 * (pixel // out_width % out_height)
    image = pixel // (out_width * out_height)
    top = tl.load(rows_ptr + row, mask=ok, other=0)
    left = tl.load(columns_ptr + column, mask=ok, other=0)
    upper = x_ptr + (image * height + top) * width * channels + channel
    if BLEND:
        bottom = tl.load(rows_ptr + row + 1, mask=ok, other=0)
        right = tl.load(columns_ptr + column + 1, mask=ok, other=0)
        lower = x_ptr + (image * height + bottom) * width * channels + channel
        of_left = tl.load(column_weights_ptr + column, mask=ok, other=0.0)
        of_right = tl.load(column_weights_ptr + column + 1, mask=ok, other=0.0)
        of_top = tl.load(row_weights_ptr + row, mask=ok, other=0.0)
        of_bottom = tl.load(row_weights_ptr + row + 1, mask=ok, other=0.0)
        one = tl.load(upper + left * channels, mask=ok, other=0).to(tl.float32) * of_left
        one += tl.load(upper + right * channels, mask=ok, other=0).to(tl.float32) * of_right
        two = tl.load(lower + left * channels, mask=ok, other=0).to(tl.float32) * of_left
        two += tl.load(lower + right * channels, mask=ok, other=0).to(tl.float32) * of_right
        found = one * of_top + two * of_bottom
        if BYTES:
            # Exact parts of 2^14: half of one less one, and one more where what is above is odd.
            n = (found * 16384.0).to(tl.int32)
            found = ((n + 8191 + ((n >> 14) & 1)) >> 14).to(tl.uint8)
        tl.store(out_ptr + element, found, mask=ok)
    else:
        found = tl.load(upper + left * channels, mask=ok, other=0)
        tl.store(out_ptr + element, found, mask=ok)
