"""An elementwise function by table (`rsquant.packed.functions`), and an epilogue of it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.epilogue import Tables, store_result
from rsquant.kernels.gpu.support import interpreted

_PIXELS = 32
_CHANNELS = 64


def function(
    x: Tensor,
    channels: int,
    low: float,
    step: float,
    of: tuple[Tensor, Tensor, Tensor],
    tables: Tables,
    basis: tuple[int, ...],
    add: Tensor | None,
    keep: Tensor | None,
    codes: Tensor | None,
) -> None:
    """y = f(x), then the epilogue.

    Args:
        x: (N, H, W, C) float32, or (N, H, W, words) int32 codes of `basis`.
        of: value, slope and curve of each interval, or value (256,) of each byte.
        add, keep: (N, H, W, C) float32. codes: (N, H, W, words) int32.
    """
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    q = (*basis, 0, 0, 0, 0)[:4]
    options = {} if interpreted() else {"enable_fp_fusion": False}
    nothing = tables.scale
    function_kernel[triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, _CHANNELS)](
        x,
        *of,
        tables.scale,
        tables.shift,
        tables.sign,
        tables.thresholds,
        tables.steps,
        nothing if add is None else add,
        nothing if keep is None else keep,
        nothing if codes is None else codes,
        pixels,
        channels,
        x.shape[-1],
        1 if codes is None else codes.shape[-1],
        low,
        step,
        1 / step,
        float(len(of[1]) - 1),
        tables.low,
        tables.high,
        *q,
        FIELD=words.field_bits(len(basis)) if basis else 0,
        HAS_ADD=add is not None,
        HAS_KEEP=keep is not None,
        OUT_BITS=tables.bits,
        OUT_FIELD=tables.field,
        PIXELS=_PIXELS,
        CHANNELS=_CHANNELS,
        **options,
    )


@triton.jit
def function_kernel(
    x_ptr,
    value_ptr,
    slope_ptr,
    curve_ptr,
    scale_ptr,
    shift_ptr,
    sign_ptr,
    thresholds_ptr,
    steps_ptr,
    add_ptr,
    keep_ptr,
    codes_ptr,
    pixels,
    channels,
    in_words,
    out_words,
    bottom,
    step,
    inverse_step,
    last,
    low,
    high,
    q0,
    q1,
    q2,
    q3,
    FIELD: tl.constexpr,
    HAS_ADD: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    pixel_ok = pixel < pixels
    n_ok = n < channels
    ok = pixel_ok[:, None] & n_ok[None, :]
    row = pixel.to(tl.int64)
    if FIELD == 0:
        x = tl.load(x_ptr + row[:, None] * channels + n[None, :], mask=ok, other=0.0)
        place = tl.minimum(tl.maximum((x - bottom) * inverse_step, 0.0), last)
        i = place.to(tl.int32)
        d = x - (bottom + i.to(tl.float32) * step)
        y = tl.load(slope_ptr + i) + d * tl.load(curve_ptr + i)
        y = tl.load(value_ptr + i) + d * y
    else:
        count: tl.constexpr = 32 // FIELD
        word = tl.load(x_ptr + row[:, None] * in_words + (n // count)[None, :], mask=ok, other=0)
        field = (word >> (n % count * FIELD)[None, :]) & ((1 << FIELD) - 1)
        byte = (
            (field & 1) * q0 + (field >> 1 & 1) * q1 + (field >> 2 & 1) * q2 + (field >> 3 & 1) * q3
        )
        y = tl.load(value_ptr + byte)
    first_word = tl.program_id(1) * (CHANNELS * OUT_FIELD // 32)
    store_result(
        y,
        row,
        pixel_ok,
        n,
        n_ok,
        channels,
        scale_ptr,
        shift_ptr,
        sign_ptr,
        thresholds_ptr,
        steps_ptr,
        add_ptr,
        keep_ptr,
        codes_ptr,
        first_word,
        out_words,
        low,
        high,
        HAS_ADD,
        HAS_KEEP,
        OUT_BITS,
        OUT_FIELD,
        False,
        PIXELS,
        CHANNELS,
    )
