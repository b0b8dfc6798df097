"""An epilogue on a float value or on codes, where no convolution stands before it."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import maps, words
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.maps import load_map, store_tile, tile


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
    maps.launch(
        elementwise_kernel,
        x,
        x.shape[-1],
        words.four(basis),
        pixels=x.shape[0] * x.shape[1] * x.shape[2],
        channels=channels,
        tables=tables,
        targets=(add, keep, codes),
        FIELD=words.field_bits(len(basis)),
    )


@triton.jit
def elementwise_kernel(
    x_ptr,
    row_size,
    q,
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
    store_tile(x, rows, row_ok, n, n_ok, channels, end, OUT_BITS, OUT_FIELD, PIXELS, CHANNELS)
