"""The LQ quantizer in training: one pass over the values, then the basis moves; nothing waits.

A value takes the level whose index is the number of thresholds 0.5 * (a + b) that it exceeds; NaN
exceeds none. The levels are computed from the basis where they are used, in every program, so the
host never sees them: a forward is one launch for weights and two for activations.

Sums. A thread adds its values of a tile in float32, R rows of V: R + V - 2 roundings, at most 8
(R V = 16, V = 4 or 8), so the error is below 8 * 2**-24 = 4.8e-7 of the level's sum of absolute
values. From there on, over tiles, threads and programs, sums are float64 and added in a fixed
order: no atomic additions, the same bits every time.

Source: LQ-Nets (arXiv 1807.10029), sections 3.1 to 3.3. The specification of the passes is
`rsquant.kernels.reference.quantize_stats` and `clip_gradient`.
"""

# Triton reads no starred tuple, and a tuple of a kernel changes its type as it grows.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu.basis import (
    levels_and_thresholds,
    load_basis,
    move_basis,
    snapped,
    sorted_levels,
)
from rsquant.kernels.gpu.support import current
from rsquant.kernels.integer_bases import EXACT, integer_bases

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_THREADS = 128
_VALUES = 16  # of a tile, per thread
_TILE = _THREADS * _VALUES
# More only make the second step longer; a GPU holds fewer at a time.
_PROGRAMS = 4096
_CLIP = 2048


def quantize_activations(
    x: Tensor, basis: Tensor, limit: int, stats: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Round every value to its nearest level; one launch.

    Args:
        x: any shape, one of DTYPES, dense in any order.
        basis: (K,) float32, contiguous, switches {0, 1}.
        limit: the grid's largest level (`quantizers.grid`), 0 for none.
        stats: whether counts and sums are wanted.
    Returns:
        rounded: like `x`; the levels rounded to its dtype.
        level: (L,) float32, ascending.
        partial: (2, P, L) float64, counts and sums of P parts of `x`: `partial.sum(1)` is what
            `qem.counts_and_sums` returns. (2, 0, L) without `stats`.
    """
    bits = basis.numel()
    tiles = max(1, triton.cdiv(x.numel(), _TILE))
    per_program = triton.cdiv(tiles, _PROGRAMS)
    programs = triton.cdiv(tiles, per_program)
    rounded = torch.empty_like(x)
    level = torch.empty(2**bits, dtype=torch.float32, device=x.device)
    parts = programs if stats else 0
    partial = torch.empty((2, parts, 2**bits), dtype=torch.float64, device=x.device)
    table, count = _integer_bases(bits, limit, False, basis)
    with current(x.device):
        activations_kernel[(programs,)](
            x,
            rounded,
            basis,
            table,
            level,
            partial,
            x.numel(),
            per_program,
            programs,
            BITS=bits,
            LIMIT=limit,
            COUNT=count,
            STATS=stats,
            REPEATS=_VALUES // _vector(x),
            VECTOR=_vector(x),
            **_OPTIONS,
        )
    return rounded, level, partial


def move_activation_basis(basis: Tensor, partial: Tensor, limit: int, momentum: float) -> None:
    """basis <- momentum basis + (1 - momentum) fitted, in place; one launch.

    Args:
        basis, limit: as they were for `quantize_activations`.
        partial: (2, P, L) float64, what it returned.
    """
    table, count = _integer_bases(basis.numel(), limit, False, basis)
    with current(basis.device):
        activation_basis_kernel[(1,)](
            basis,
            table,
            partial,
            partial.shape[1],
            BITS=basis.numel(),
            LIMIT=limit,
            COUNT=count,
            MOMENTUM=momentum,
            **_OPTIONS,
        )


def clip_gradient(grad: Tensor, x: Tensor, level: Tensor, below: bool = False) -> Tensor:
    """grad where x <= level[-1], else 0 (NaN in `x` gives 0); one launch.

    Args:
        grad: shape and strides of `x`, one of DTYPES.
        x: dense in any order, one of DTYPES.
        level: (L,) float32.
        below: 0 where x < level[0] as well.
    Returns:
        Like `x`.
    """
    out = torch.empty_like(x)
    with current(x.device):
        clip_kernel[(max(1, triton.cdiv(x.numel(), _CLIP)),)](
            grad,
            x,
            level,
            out,
            x.numel(),
            LEVELS=level.numel(),
            BELOW=below,
            SIZE=_CLIP,
            **_OPTIONS,
        )
    return out


def quantize_weights(
    weight: Tensor, basis: Tensor, limit: int, ridge: float, momentum: float | None
) -> Tensor:
    """Round each row to its nearest levels and, with a momentum, move its basis; one launch.

    A row is small: its program holds counts and sums in registers and fits its basis at the end.

    Args:
        weight: (O, ...) float32; the values of a row lie together, in any order.
        basis: (O, K) float32, contiguous, signs {-1, +1}; moved in place.
        limit: as in `quantize_activations`.
        ridge: of the fit, absolute.
        momentum: None leaves the basis as it is.
    Returns:
        Like `weight`.
    """
    rows, bits = basis.shape
    values = weight.numel() // max(1, rows)
    # The widest tile that one row fills.
    repeats = min(_VALUES // 4, triton.next_power_of_2(triton.cdiv(max(1, values), _THREADS * 4)))
    rounded = torch.empty_like(weight)
    if weight.numel():
        table, count = _integer_bases(bits, limit, True, basis)
        with current(weight.device):
            weights_kernel[(rows,)](
                weight,
                rounded,
                basis,
                table,
                values,
                BITS=bits,
                LIMIT=limit,
                COUNT=count,
                RIDGE=ridge,
                MOMENTUM=momentum or 0.0,
                MOVE=momentum is not None,
                REPEATS=repeats,
                VECTOR=4,
                **_OPTIONS,
            )
    return rounded


# One rounding per operation, as in the specification.
_OPTIONS: dict[str, Any] = {"num_warps": _THREADS // 32, "enable_fp_fusion": False}


def _integer_bases(bits: int, limit: int, signed: bool, basis: Tensor) -> tuple[Tensor, int]:
    """(2, K, P) float64 beside a basis, and P; the basis and 0 where it is not snapped to them."""
    if not 1 <= limit <= EXACT:
        return basis, 0
    table = _table(bits, limit, signed, basis.device)
    return table, table.shape[2]


@cache
def _table(bits: int, limit: int, signed: bool, device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(integer_bases(bits, limit, signed))).to(device)


def _vector(x: Tensor) -> int:
    """How many values are 128 bits."""
    return 16 // x.element_size()


@triton.jit
def _lanes(values, VECTOR: tl.constexpr):
    """Sums over what one thread holds of a tile (REPEATS, 128 * VECTOR): (128,)."""
    column = tl.sum(values, 0)
    return tl.sum(tl.reshape(column, (column.shape[0] // VECTOR, VECTOR)), 1)


@triton.jit
def _nothing_counted(BITS: tl.constexpr):
    """Of each thread, how many values are above each threshold, and the sum of each level."""
    above, sums = (), (tl.zeros((128,), tl.float64),)
    for _ in tl.static_range(1, 2**BITS):
        above = above + (tl.zeros((128,), tl.int32),)
        sums = sums + (tl.zeros((128,), tl.float64),)
    return above, sums


@triton.jit
def _rounded(
    x, level, threshold, above, sums, BITS: tl.constexpr, VECTOR: tl.constexpr, STATS: tl.constexpr
):
    """Levels of a tile x (REPEATS, 128 * VECTOR) float32, and `above` and `sums` with it added.

    `rest` is x where it exceeds the threshold before, else zero: what the next threshold leaves of
    it belongs to the level between them.
    """
    rounded = tl.zeros(x.shape, tl.float32) + level[0]
    rest = x
    new_above, new_sums = (), ()
    for code in tl.static_range(1, 2**BITS):
        exceeds = x > threshold[code - 1]
        rounded = tl.where(exceeds, level[code], rounded)
        if STATS:
            new_above = new_above + (above[code - 1] + _lanes(exceeds.to(tl.int32), VECTOR),)
            here = _lanes(tl.where(exceeds, 0.0, rest), VECTOR)
            new_sums = new_sums + (sums[code - 1] + here.to(tl.float64),)
            rest = tl.where(exceeds, x, 0.0)
    if STATS:
        highest = _lanes(rest, VECTOR).to(tl.float64)
        return rounded, new_above, new_sums + (sums[2**BITS - 1] + highest,)
    else:
        return rounded, above, sums


@triton.jit
def _counted(above, threshold, size, padding, BITS: tl.constexpr):
    """How many of `size` values took each level, as L float64 scalars.

    `padding` zeros were counted with them.
    """
    counts = ()
    left = size
    for code in tl.static_range(1, 2**BITS):
        higher = tl.sum(above[code - 1], 0) - tl.where(threshold[code - 1] < 0, padding, 0)
        counts = counts + ((left - higher).to(tl.float64),)
        left = higher
    return counts + (left.to(tl.float64),)


# Their counts differ from layer to layer: compile once for all of them.
@triton.jit(do_not_specialize=["per_program", "programs"])
def activations_kernel(
    x_ptr,
    rounded_ptr,
    basis_ptr,
    table_ptr,
    level_ptr,
    partial_ptr,
    size,
    per_program,
    programs,
    BITS: tl.constexpr,
    LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
    STATS: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A program takes `per_program` tiles that follow each other."""
    WIDTH: tl.constexpr = 128 * VECTOR
    basis = snapped(load_basis(basis_ptr, BITS), table_ptr, BITS, False, LIMIT, COUNT)
    ascending, _ = sorted_levels(basis, BITS, False)
    level, threshold = levels_and_thresholds(ascending, BITS)
    above, sums = _nothing_counted(BITS)
    program = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, REPEATS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    for index in range(per_program):
        offset = (program * per_program + index) * (REPEATS * WIDTH) + tile
        inside = offset < size
        x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        rounded, above, sums = _rounded(x, level, threshold, above, sums, BITS, VECTOR, STATS)
        tl.store(rounded_ptr + offset, rounded.to(rounded_ptr.dtype.element_ty), mask=inside)
    if program == 0:
        tl.store(level_ptr + tl.arange(0, 2**BITS), ascending)
    if STATS:
        taken = per_program * (REPEATS * WIDTH)
        own = tl.minimum(size - program * taken, taken).to(tl.int32)
        counts = _counted(above, threshold, own, taken - own, BITS)
        for code in tl.static_range(2**BITS):
            place = partial_ptr + program * (2**BITS) + code
            tl.store(place, counts[code])
            tl.store(place + programs * (2**BITS), tl.sum(sums[code], 0))


@triton.jit(do_not_specialize=["programs"])
def activation_basis_kernel(
    basis_ptr,
    table_ptr,
    partial_ptr,
    programs,
    BITS: tl.constexpr,
    LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
    MOMENTUM: tl.constexpr,
):
    """One program: adds what the others counted, in a fixed order, and moves the basis."""
    ROWS: tl.constexpr = 4096 >> BITS
    basis = snapped(load_basis(basis_ptr, BITS), table_ptr, BITS, False, LIMIT, COUNT)
    _, order = sorted_levels(basis, BITS, False)
    counts = tl.zeros((ROWS, 2**BITS), tl.float64)
    sums = tl.zeros((ROWS, 2**BITS), tl.float64)
    cell = tl.arange(0, ROWS)[:, None] * (2**BITS) + tl.arange(0, 2**BITS)[None, :]
    for first in range(0, programs * (2**BITS), ROWS * (2**BITS)):
        inside = first + cell < programs * (2**BITS)
        place = partial_ptr + first + cell
        counts += tl.load(place, mask=inside, other=0.0)
        sums += tl.load(place + programs * (2**BITS), mask=inside, other=0.0)
    move_basis(basis_ptr, tl.sum(counts, 0), tl.sum(sums, 0), order, BITS, False, 0, MOMENTUM)


@triton.jit
def weights_kernel(
    weight_ptr,
    rounded_ptr,
    basis_ptr,
    table_ptr,
    values,
    BITS: tl.constexpr,
    LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
    RIDGE: tl.constexpr,
    MOMENTUM: tl.constexpr,
    MOVE: tl.constexpr,
    REPEATS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A program per row."""
    WIDTH: tl.constexpr = 128 * VECTOR
    row = tl.program_id(0).to(tl.int64)
    basis_ptr += row * BITS
    basis = snapped(load_basis(basis_ptr, BITS), table_ptr, BITS, True, LIMIT, COUNT)
    ascending, order = sorted_levels(basis, BITS, True)
    level, threshold = levels_and_thresholds(ascending, BITS)
    above, sums = _nothing_counted(BITS)
    tile = tl.arange(0, REPEATS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    for first in range(0, values, REPEATS * WIDTH):
        inside = first + tile < values
        offset = row * values + first + tile
        x = tl.load(weight_ptr + offset, mask=inside, other=0.0)
        rounded, above, sums = _rounded(x, level, threshold, above, sums, BITS, VECTOR, MOVE)
        tl.store(rounded_ptr + offset, rounded, mask=inside)
    if MOVE:
        padding = tl.cdiv(values, REPEATS * WIDTH) * (REPEATS * WIDTH) - values
        counts = _counted(above, threshold, values, padding, BITS)
        code = tl.arange(0, 2**BITS)
        count = tl.zeros((2**BITS,), tl.float64)
        total = tl.zeros((2**BITS,), tl.float64)
        for index in tl.static_range(2**BITS):
            count = tl.where(code == index, counts[index], count)
            total = tl.where(code == index, tl.sum(sums[index], 0), total)
        move_basis(basis_ptr, count, total, order, BITS, True, RIDGE, MOMENTUM)


@triton.jit
def clip_kernel(
    grad_ptr,
    x_ptr,
    level_ptr,
    out_ptr,
    size,
    LEVELS: tl.constexpr,
    BELOW: tl.constexpr,
    SIZE: tl.constexpr,
):
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = offset < size
    x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + offset, mask=inside, other=0.0)
    passes = x <= tl.load(level_ptr + LEVELS - 1)
    if BELOW:
        passes = passes & (x >= tl.load(level_ptr))
    clipped = tl.where(passes, grad, 0.0)
    tl.store(out_ptr + offset, clipped.to(out_ptr.dtype.element_ty), mask=inside)
