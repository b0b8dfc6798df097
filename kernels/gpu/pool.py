"""Pooling: the largest value of a window of codes, bytes or floats; the mean of one, of a map."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.support import one_rounding
from rsquant.kernels.gpu.words import byte_of

Pair = tuple[int, int]
_ELEMENTS = 1024
_CHANNELS = 32


def max_pool(
    x: Tensor,
    out: Tensor,
    rows: Tensor,
    columns: Tensor,
    taps: Pair,
    dilation: Pair = (1, 1),
    basis: tuple[int, ...] = (),
) -> None:
    """Largest value of each window.

    Args:
        x: (N, H, W, C) float32, (N, H, W, pitch) uint8 or (N, H, W, words) int32 codes of `basis`.
        out: (N, OH, OW, C, pitch or words), type of `x`.
        rows, columns: (OH, 2), (OW, 2) int32, first pixel and the one behind the last.
        taps: pixels of the longest of them.
        dilation: pixels from one to the next in a window.
    """
    height, width, last = x.shape[1:]
    out_height, out_width = out.shape[1:3]
    field = words.field_bits(len(basis))
    count = words.word_channels(field) if field else 1
    total = out.numel() * count
    max_pool_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x,
        out,
        rows,
        columns,
        total,
        height,
        width,
        out_height,
        out_width,
        last,
        *taps,
        *dilation,
        words.four(basis),
        LEAST=float("-inf") if x.is_floating_point() else 0,
        FIELD=field,
        COUNT=count,
        ELEMENTS=_ELEMENTS,
    )


@triton.jit
def window_of(pixel, ok, rows_ptr, columns_ptr, out_height, out_width):
    """Of output pixels: their image, first row and the one behind the last, columns likewise."""
    x_out = pixel % out_width
    y_out = pixel // out_width % out_height
    top = tl.load(rows_ptr + 2 * y_out, mask=ok, other=0)
    bottom = tl.load(rows_ptr + 2 * y_out + 1, mask=ok, other=0)
    left = tl.load(columns_ptr + 2 * x_out, mask=ok, other=0)
    right = tl.load(columns_ptr + 2 * x_out + 1, mask=ok, other=0)
    return pixel // (out_width * out_height), top, bottom, left, right


@triton.jit
def max_pool_kernel(
    x_ptr,
    out_ptr,
    rows_ptr,
    columns_ptr,
    total,
    height,
    width,
    out_height,
    out_width,
    last,
    taps_y,
    taps_x,
    dilation_y,
    dilation_x,
    q,
    LEAST: tl.constexpr,
    FIELD: tl.constexpr,
    COUNT: tl.constexpr,
    ELEMENTS: tl.constexpr,
):
    """Element = one channel of one output pixel. COUNT channels share a word of codes."""
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    ok = element < total
    where = element // COUNT
    channel = where % last
    pixel = where // last
    image, top, bottom, left, right = window_of(
        pixel, ok, rows_ptr, columns_ptr, out_height, out_width
    )
    shift = (element % COUNT).to(tl.int32) * FIELD
    best = tl.full((ELEMENTS,), LEAST, x_ptr.dtype.element_ty)
    for tap in range(taps_y * taps_x):
        y = top + tap // taps_x * dilation_y
        x = left + tap % taps_x * dilation_x
        inside = ok & (y < bottom) & (x < right)
        source = x_ptr + ((image * height + y) * width + x) * last + channel
        if FIELD == 0:
            best = tl.maximum(best, tl.load(source, mask=inside, other=LEAST))
        else:
            field = (tl.load(source, mask=inside, other=0) >> shift) & ((1 << FIELD) - 1)
            # Fields of four bits need not ascend with their bytes: the byte decides.
            best = tl.maximum(best, byte_of(field, q) * 16 + field)
    if FIELD == 0:
        tl.store(out_ptr + element, best, mask=ok)
    else:
        fields = tl.reshape((best & 15) << shift, (ELEMENTS // COUNT, COUNT))
        word = tl.program_id(0).to(tl.int64) * (ELEMENTS // COUNT) + tl.arange(0, ELEMENTS // COUNT)
        tl.store(out_ptr + word, tl.sum(fields, axis=1), mask=word * COUNT < total)


def average_pool(
    x: Tensor, scale: Tensor, shift: Tensor, low: float, high: float, out: Tensor
) -> None:
    """Mean over the pixels of clamp(scale x + shift), summed in the order of rows.

    Args:
        x: (N, H, W, C) float32. scale, shift: (C,). out: (N, 1, 1, C) float32.
    """
    n, height, width, channels = x.shape
    average_pool_kernel[(n, triton.cdiv(channels, _CHANNELS))](
        x,
        scale,
        shift,
        out,
        height * width,
        channels,
        1.0 / (height * width),
        low,
        high,
        CHANNELS=_CHANNELS,
        num_warps=1,
        **one_rounding(),
    )


@triton.jit
def average_pool_kernel(
    x_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    pixels,
    channels,
    share,
    low,
    high,
    CHANNELS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    ok = c < channels
    scale = tl.load(scale_ptr + c, mask=ok, other=0.0)
    shift = tl.load(shift_ptr + c, mask=ok, other=0.0)
    total = tl.zeros((CHANNELS,), tl.float32)
    for pixel in range(pixels):
        x = tl.load(x_ptr + (image * pixels + pixel) * channels + c, mask=ok, other=0.0)
        v = x * scale + shift
        total += tl.minimum(tl.maximum(v, low), high)
    tl.store(out_ptr + image * channels + c, total * share, mask=ok)


def average_windows(
    x: Tensor, out: Tensor, rows: Tensor, columns: Tensor, taps: Pair, share: Tensor
) -> None:
    """share times the sum of each window, in the order of its rows and columns.

    Args:
        x: (N, H, W, C) float32. out: (N, OH, OW, C) float32.
        rows, columns, taps: as of `max_pool`. share: (OH, OW) float32.
    """
    height, width, channels = x.shape[1:]
    out_height, out_width = out.shape[1:3]
    total = out.numel()
    average_windows_kernel[(triton.cdiv(total, _ELEMENTS),)](
        x,
        out,
        rows,
        columns,
        share,
        total,
        height,
        width,
        out_height,
        out_width,
        channels,
        *taps,
        ELEMENTS=_ELEMENTS,
        **one_rounding(),
    )


@triton.jit
def average_windows_kernel(
    x_ptr,
    out_ptr,
    rows_ptr,
    columns_ptr,
    share_ptr,
    total,
    height,
    width,
    out_height,
    out_width,
    channels,
    taps_y,
    taps_x,
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
    sums = tl.zeros((ELEMENTS,), tl.float32)
    for tap in range(taps_y * taps_x):
        y = top + tap // taps_x
        x = left + tap % taps_x
        inside = ok & (y < bottom) & (x < right)
        source = x_ptr + ((image * height + y) * width + x) * channels + channel
        sums += tl.load(source, mask=inside, other=0.0)
    share = tl.load(share_ptr + pixel % (out_width * out_height), mask=ok, other=0.0)
    tl.store(out_ptr + element, sums * share, mask=ok)
