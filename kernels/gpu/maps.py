"""The frame of a kernel that computes a map of floats and ends in an epilogue.

A program computes a tile of PIXELS and CHANNELS: `tile` says which, `load_map` reads the same ones
of another map, `store_tile` applies the epilogue. `launch` runs one program per tile.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import epilogue
from rsquant.kernels.gpu.epilogue import Tables, store_result
from rsquant.kernels.gpu.support import one_rounding
from rsquant.kernels.gpu.words import byte_of

# Values that an epilogue adds, keeps and stores as codes: (N, H, W, C) float32 twice and
# (N, H, W, words) int32.
Targets = tuple[Tensor | None, Tensor | None, Tensor | None]
_PIXELS = 32
_CHANNELS = 64


def launch(
    kernel: Any,
    *inputs: Any,
    pixels: int,
    channels: int,
    tables: Tables,
    targets: Targets,
    **constants: Any,
) -> None:
    """Run a kernel on every tile of a map.

    Args:
        kernel: kernel(*inputs, pixels, channels, end, its constants, OUT_BITS, OUT_FIELD, PIXELS,
            CHANNELS).
        pixels: of all images. channels: of the result.
    """
    kernel[triton.cdiv(pixels, _PIXELS), triton.cdiv(channels, _CHANNELS)](
        *inputs,
        pixels,
        channels,
        epilogue.arguments(tables, *targets),
        OUT_BITS=tables.bits,
        OUT_FIELD=tables.field,
        PIXELS=_PIXELS,
        CHANNELS=_CHANNELS,
        **constants,
        **one_rounding(),
    )


@triton.jit
def tile(pixels, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Pixels (PIXELS,) int64 and channels (CHANNELS,) of this program, and which of them exist."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    n = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return pixel.to(tl.int64), pixel < pixels, n, n < channels


@triton.jit
def load_map(x_ptr, rows, n, ok, row_size, q, FIELD: tl.constexpr):
    """A tile of a map: its floats, or the bytes of its codes where FIELD is not 0.

    Args:
        row_size: floats or words of a pixel.
        q: `words.four` of the basis of codes.
    """
    if FIELD == 0:
        x = tl.load(x_ptr + rows[:, None] * row_size + n[None, :], mask=ok, other=0.0)
    else:
        count: tl.constexpr = 32 // FIELD
        word = tl.load(x_ptr + rows[:, None] * row_size + (n // count)[None, :], mask=ok, other=0)
        x = byte_of((word >> (n % count * FIELD)[None, :]) & ((1 << FIELD) - 1), q)
    return x


@triton.jit
def store_tile(
    x,
    rows,
    row_ok,
    n,
    n_ok,
    channels,
    end,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The epilogue `end` of x (PIXELS, CHANNELS)."""
    first_word = tl.program_id(1) * (CHANNELS * OUT_FIELD // 32)
    store_result(
        x,
        rows,
        row_ok,
        n,
        n_ok,
        channels,
        first_word,
        end,
        OUT_BITS,
        OUT_FIELD,
        False,
        PIXELS,
        CHANNELS,
    )
