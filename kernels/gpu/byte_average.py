"""The mean of windows of bytes or codes, in bytes: `rsquant.packed.ops.byte_average`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.epilogue import code_of
from rsquant.kernels.gpu.maps import load_channel
from rsquant.kernels.gpu.pool import window_of
from rsquant.kernels.gpu.support import one_rounding

_ELEMENTS = 1024


def byte_average(
    x: Tensor,
    channels: int,
    out: Tensor,
    rows: Tensor,
    columns: Tensor,
    taps: tuple[int, int],
    factor: Tensor,
    input_zero: int,
    zero: int,
    basis: tuple[int, ...] = (),
) -> None:
    """The byte round(factor * sum of the codes) + zero of each window.

    Args:
        x: (N, H, W, pitch) uint8, or (N, H, W, words) int32 codes of `basis`; a code is a byte less
            `input_zero`.
        out: (N, OH, OW, pitch) uint8.
        rows, columns: (OH, 2), (OW, 2) int32, first pixel and the one behind the last.
        taps: pixels of the longest of them.
        factor: (OH, OW) float32.
    """
    n, height, width, row_size = x.shape
    out_height, out_width, pitch = out.shape[1:]
    total = n * out_height * out_width * channels
    byte_average_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x,
        out,
        rows,
        columns,
        factor,
        total,
        height,
        width,
        out_height,
        out_width,
        channels,
        row_size,
        pitch,
        *taps,
        input_zero,
        zero,
        float(-zero),
        float(255 - zero),
        words.four(basis),
        FIELD=words.field_bits(len(basis)),
        ELEMENTS=_ELEMENTS,
        **one_rounding(),
    )


@triton.jit
def byte_average_kernel(
    x_ptr,
    out_ptr,
    rows_ptr,
    columns_ptr,
    factor_ptr,
    total,
    height,
    width,
    out_height,
    out_width,
    channels,
    row_size,
    pitch,
    taps_y,
    taps_x,
    input_zero,
    zero,
    low,
    high,
    q,
    FIELD: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    """Element = one channel of one output pixel."""
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    channel = element % channels
    pixel = element // channels
    image, top, bottom, left, right = window_of(
        pixel, ok, rows_ptr, columns_ptr, out_height, out_width
    )
    sums = tl.zeros((ELEMENTS,), tl.int32)
    for tap in range(taps_y * taps_x):
        y = top + tap // taps_x
        x = left + tap % taps_x
        inside = ok & (y < bottom) & (x < right)
        source = ((image * height + y) * width + x) * row_size
        byte = load_channel(x_ptr, source, channel, inside, q, FIELD).to(tl.int32)
        sums += tl.where(inside, byte - input_zero, 0)
    factor = tl.load(factor_ptr + pixel % (out_width * out_height), mask=ok, other=0.0)
    code = code_of(sums, factor, 0, low, high)
    tl.store(out_ptr + pixel * pitch + channel, (code + zero).to(tl.uint8), mask=ok)
