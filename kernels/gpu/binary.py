"""Product or sum of two float values, sides of 1 serving all, and an epilogue of it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu.epilogue import Tables, store_result
from rsquant.kernels.gpu.support import interpreted

_PIXELS = 32
_CHANNELS = 64


def binary(
    a: Tensor,
    b: Tensor,
    multiply: bool,
    shape: tuple[int, int, int],
    tables: Tables,
    add: Tensor | None,
    keep: Tensor | None,
    codes: Tensor | None,
) -> None:
    """a * b or a + b, then the epilogue.

    Args:
        a, b: (N, H, W, C) float32; H, W and C may each be 1 instead.
        shape: H, W and C of the result.
        add, keep: (N, H, W, C) float32. codes: (N, H, W, words) int32.
    """
    height, width, channels = shape
    pixels = a.shape[0] * height * width
    options = {} if interpreted() else {"enable_fp_fusion": False}
    nothing = tables.scale
    binary_kernel[triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, _CHANNELS)](
        a,
        b,
        *_steps(a, shape),
        *_steps(b, shape),
        tables.scale,
        tables.shift,
        tables.sign,
        tables.thresholds,
        tables.steps,
        nothing if add is None else add,
        nothing if keep is None else keep,
        nothing if codes is None else codes,
        pixels,
        height,
        width,
        channels,
        1 if codes is None else codes.shape[-1],
        tables.low,
        tables.high,
        MULTIPLY=multiply,
        HAS_ADD=add is not None,
        HAS_KEEP=keep is not None,
        OUT_BITS=tables.bits,
        OUT_FIELD=tables.field,
        PIXELS=_PIXELS,
        CHANNELS=_CHANNELS,
        **options,
    )


def _steps(x: Tensor, shape: tuple[int, int, int]) -> list[int]:
    """Numbers from one image, row, pixel and channel to the next; 0 where one serves all."""
    own = x.shape[1:]
    strides = (own[1] * own[2], own[2], 1)
    return [own.numel()] + [
        stride if side == result else 0
        for stride, side, result in zip(strides, own, shape, strict=True)
    ]


@triton.jit
def binary_kernel(
    a_ptr,
    b_ptr,
    a_image,
    a_row,
    a_pixel,
    a_channel,
    b_image,
    b_row,
    b_pixel,
    b_channel,
    scale_ptr,
    shift_ptr,
    sign_ptr,
    thresholds_ptr,
    steps_ptr,
    add_ptr,
    keep_ptr,
    codes_ptr,
    pixels,
    height,
    width,
    channels,
    out_words,
    low,
    high,
    MULTIPLY: tl.constexpr,
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
    image = row // (height * width)
    y = row // width % height
    x = row % width
    a_at = image * a_image + y * a_row + x * a_pixel
    b_at = image * b_image + y * b_row + x * b_pixel
    a = tl.load(a_ptr + a_at[:, None] + (n * a_channel)[None, :], mask=ok, other=0.0)
    b = tl.load(b_ptr + b_at[:, None] + (n * b_channel)[None, :], mask=ok, other=0.0)
    if MULTIPLY:
        result = a * b
    else:
        result = a + b
    first_word = tl.program_id(1) * (CHANNELS * OUT_FIELD // 32)
    store_result(
        result,
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
