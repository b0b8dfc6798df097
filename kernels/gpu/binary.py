"""Product or sum of two float values, sides of 1 serving all, and an epilogue of it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import maps
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.maps import store_tile, tile


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
    maps.launch(
        binary_kernel,
        a,
        b,
        _steps(a, shape),
        _steps(b, shape),
        height,
        width,
        pixels=a.shape[0] * height * width,
        channels=channels,
        tables=tables,
        targets=(add, keep, codes),
        MULTIPLY=multiply,
    )


def _steps(x: Tensor, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Numbers from one image, row, pixel and channel to the next; 0 where one serves all."""
    own = x.shape[1:]
    strides = (own[1] * own[2], own[2], 1)
    return own.numel(), *(
        stride if side == result else 0
        for stride, side, result in zip(strides, own, shape, strict=True)
    )


@triton.jit
def binary_kernel(
    a_ptr,
    b_ptr,
    a_steps,
    b_steps,
    height,
    width,
    pixels,
    channels,
    end,
    MULTIPLY: tl.constexpr,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    rows, row_ok, n, n_ok = tile(pixels, channels, PIXELS, CHANNELS)
    ok = row_ok[:, None] & n_ok[None, :]
    a = _load(a_ptr, rows, n, ok, height, width, a_steps)
    b = _load(b_ptr, rows, n, ok, height, width, b_steps)
    if MULTIPLY:
        y = a * b
    else:
        y = a + b
    store_tile(y, rows, row_ok, n, n_ok, channels, end, OUT_BITS, OUT_FIELD, PIXELS, CHANNELS)


@triton.jit
def _load(x_ptr, rows, n, ok, height, width, steps):
    """A tile of a map some of whose sides may be 1; `steps` of `_steps`."""
    image = rows // (height * width)
    y = rows // width % height
    at = image * steps[0] + y * steps[1] + rows % width * steps[2]
    return tl.load(x_ptr + at[:, None] + (n * steps[3])[None, :], mask=ok, other=0.0)
