"""An elementwise function by table (`rsquant.packed.functions`), and an epilogue of it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import maps, words
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.maps import load_map, store_tile, tile


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
        low, step: where the first interval begins, and how long each is.
        of: value, slope and curve of each interval, or value (256,) of each byte.
        add, keep: (N, H, W, C) float32. codes: (N, H, W, words) int32.
    """
    maps.launch(
        function_kernel,
        x,
        x.shape[-1],
        words.four(basis),
        *of,
        low,
        step,
        1 / step,
        float(len(of[1]) - 1),
        pixels=x.shape[0] * x.shape[1] * x.shape[2],
        channels=channels,
        tables=tables,
        targets=(add, keep, codes),
        FIELD=words.field_bits(len(basis)),
    )


@triton.jit
def function_kernel(
    x_ptr,
    row_size,
    q,
    value_ptr,
    slope_ptr,
    curve_ptr,
    bottom,
    step,
    inverse_step,
    last,
    pixels,
    channels,
    end,
    FIELD: tl.constexpr,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    rows, row_ok, n, n_ok = tile(pixels, channels, PIXELS, CHANNELS)
    x = load_map(x_ptr, rows, n, row_ok[:, None] & n_ok[None, :], row_size, q, FIELD)
    if FIELD == 0:
        place = tl.minimum(tl.maximum((x - bottom) * inverse_step, 0.0), last)
        i = place.to(tl.int32)
        d = x - (bottom + i.to(tl.float32) * step)
        y = tl.load(slope_ptr + i) + d * tl.load(curve_ptr + i)
        y = tl.load(value_ptr + i) + d * y
    else:
        y = tl.load(value_ptr + x)
    store_tile(y, rows, row_ok, n, n_ok, channels, end, OUT_BITS, OUT_FIELD, PIXELS, CHANNELS)
