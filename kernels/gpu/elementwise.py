"""An epilogue on a float value or on codes, where no convolution stands before it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.epilogue import Tables, store_result
from rsquant.kernels.gpu.support import interpreted

_PIXELS = 32
_CHANNELS = 64


def elementwise(
    x: Tensor,
    channels: int,
    tables: Tables,
    basis: tuple[int, ...],
    add: Tensor | None,
    keep: Tensor | None,
    codes: Tensor | None,
) -> None:
    """Apply an epilogue to a map.

    Args:
        x: (N, H, W, C) float32, or (N, H, W, words) int32 codes of `basis`.
        add, keep: (N, H, W, C) float32. codes: (N, H, W, words) int32.
    """
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    q = (*basis, 0, 0, 0, 0)[:4]
    options = {} if interpreted() else {"enable_fp_fusion": False}
    nothing = tables.scale
    elementwise_kernel[triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, _CHANNELS)](
        x,
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
def elementwise_kernel(
    x_ptr,
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
    else:
        count: tl.constexpr = 32 // FIELD
        word = tl.load(x_ptr + row[:, None] * in_words + (n // count)[None, :], mask=ok, other=0)
        field = (word >> (n % count * FIELD)[None, :]) & ((1 << FIELD) - 1)
        x = (field & 1) * q0 + (field >> 1 & 1) * q1 + (field >> 2 & 1) * q2 + (field >> 3 & 1) * q3
    first_word = tl.program_id(1) * (CHANNELS * OUT_FIELD // 32)
    store_result(
        x,
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
