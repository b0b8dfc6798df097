"""The launch of a convolution; `conv_kernel` computes it, `conv_tiles` says how to cut it up."""

from __future__ import annotations

import triton
from torch import Tensor

from rsquant.errors import ConfigError
from rsquant.kernels.gpu import epilogue, words
from rsquant.kernels.gpu.conv_kernel import conv_kernel
from rsquant.kernels.gpu.conv_tiles import Geometry, Tile
from rsquant.kernels.gpu.epilogue import Tables
from rsquant.kernels.gpu.support import one_rounding
from rsquant.kernels.gpu.weights import Weights

# Offsets in the kernel are 32-bit where they count words of the input.
MAX_OFFSET = 2**31 - 1


def convolve(
    form: Geometry,
    x: Tensor,
    weights: Weights,
    tables: Tables,
    tile: Tile,
    basis: tuple[int, ...],
    in_field: int,
    outside: Tensor | None,
    add: Tensor | None,
    keep: Tensor | None,
    codes: Tensor | None,
    inverse_step: float = 0.0,
    input_limit: int = 0,
) -> None:
    """Run one convolution.

    Args:
        x: (N, H, W, words) int32, codes or the image; or (N, H, W, C) float32.
        basis: what the bits of a field are worth, ascending; empty for the image and floats.
        outside: (words,) int32, the pixel that stands for every one outside the input; None means
            fields of 0.
        add, keep: (N, OH, OW, O) float32. codes: (N, OH, OW, words) int32.
        inverse_step, input_limit: of a float input, see `ConvStep`.
    Raises:
        ConfigError: too many values for the kernel's offsets.
    """
    if x.numel() > MAX_OFFSET:
        raise ConfigError(
            f"gpu: a convolution's input has {x.numel()} words, at most {MAX_OFFSET} are possible; "
            "use a smaller batch"
        )
    groups, columns = weights.groups, form.out_channels // weights.groups
    step = tile.bk // words.word_channels(in_field)
    grid = (triton.cdiv(form.pixels, tile.bm) * triton.cdiv(columns, tile.bn), groups)
    matrix = weights.levels
    if tile.packed and weights.packed is not None:
        matrix = weights.packed
    out_count = words.word_channels(tables.field) if tables.bits else 1
    conv_kernel[grid](
        x,
        matrix,
        weights.basis,
        outside,
        weights.correction,
        epilogue.arguments(tables, add, keep, codes),
        inverse_step,
        float(input_limit),
        *words.four(basis),
        form.pixels,
        form.height,
        form.width,
        form.out_height,
        form.out_width,
        x.shape[-1],
        form.out_channels,
        columns,
        weights.group_words,
        form.taps,
        form.kernel[1],
        *form.stride,
        *form.padding,
        *form.dilation,
        matrix.shape[-1],
        weights.levels[0].numel(),
        columns // out_count,
        triton.cdiv(form.taps * weights.group_words, step),
        BM=tile.bm,
        BN=tile.bn,
        BK=tile.bk,
        IN_BITS=len(basis),
        IN_FIELD=in_field,
        W_BITS=weights.bits if matrix is weights.packed else 0,
        PARTS=len(weights.levels),
        WHOLE=weights.group_words % step == 0,
        OUT_BITS=tables.bits,
        OUT_FIELD=tables.field,
        INTEGER=tables.integer,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **one_rounding(),
    )
