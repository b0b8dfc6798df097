"""A learned basis in the registers of one program: its levels, and its move after a pass.

The PyTorch functions in `rsquant.quantizers` (`codes`, `grid`, `qem`) are the specification. A
basis is a tuple of BITS float32 scalars; L = 2**BITS.
"""

# Triton reads no starred tuple, and a tuple of a kernel changes its type as it grows.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_basis(basis_ptr, BITS: tl.constexpr):
    """BITS scalars from memory."""
    basis = ()
    for k in tl.static_range(BITS):
        basis = basis + (tl.load(basis_ptr + k),)
    return basis


@triton.jit
def pick(values, index):
    """values[index] as a scalar. Exact: every other term of the sum is zero."""
    return tl.sum(tl.where(tl.arange(0, values.shape[0]) == index, values, 0), 0)


@triton.jit
def _round(x):
    """To the nearest integer, halves to even: float64 has no digits below 1 near 1.5 * 2**52."""
    return (x + 6755399441055744.0) - 6755399441055744.0


@triton.jit
def snapped(
    basis,
    table_ptr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    LIMIT: tl.constexpr,
    COUNT: tl.constexpr,
):
    """The basis on its grid, as `quantizers.grid.snapped`; LIMIT 0 is no grid.

    Args:
        table_ptr: (2, BITS, COUNT) float64, `integer_bases` where there are COUNT of them.
    """
    if LIMIT == 0:
        return basis
    elif COUNT > 0:
        return _best_of_all(basis, table_ptr, BITS, SIGNED, COUNT)
    else:
        return _best_rounding(basis, BITS, SIGNED, LIMIT)


@triton.jit
def _best_of_all(basis, table_ptr, BITS: tl.constexpr, SIGNED: tl.constexpr, COUNT: tl.constexpr):
    """As `quantizers.grid._best_of_all`, a lane per candidate of a block."""
    key, rank = (), ()
    for k in tl.static_range(BITS):
        value = basis[k].to(tl.float64)
        key = key + (tl.abs(value) if SIGNED else value,)
    for k in tl.static_range(BITS):
        place = tl.zeros((), tl.int32)
        for j in tl.static_range(BITS):
            if j < k:
                place += (key[j] >= key[k]).to(tl.int32)
            elif j > k:
                place += (key[j] > key[k]).to(tl.int32)
        rank = rank + (place,)
    lane = tl.arange(0, 256)
    top = tl.full((256,), float("-inf"), tl.float64)
    row = tl.zeros((256,), tl.int32)
    for first in range(0, COUNT, 256):
        candidate = first + lane
        inside = candidate < COUNT
        score = tl.zeros((256,), tl.float64)
        for r in tl.static_range(BITS):
            ordered = tl.zeros((), tl.float64)
            for k in tl.static_range(BITS):
                ordered = tl.where(rank[k] == r, key[k], ordered)
            direction = tl.load(table_ptr + (BITS + r) * COUNT + candidate, mask=inside, other=0.0)
            score += ordered * direction
        better = inside & (score > top)
        row = tl.where(better, candidate, row)
        top = tl.where(better, score, top)
    # The first of equal ones; a basis that is NaN has none, and must read inside the table.
    best = tl.min(tl.where(top == tl.max(top, 0), row, COUNT - 1), 0)
    integers = ()
    for k in tl.static_range(BITS):
        p = tl.load(table_ptr + rank[k] * COUNT + best)
        if SIGNED:
            p = tl.where(basis[k] < 0, -p, p)
        integers = integers + (p,)
    return _scaled(integers, basis, BITS, SIGNED)


@triton.jit
def _scaled(integers, basis, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """Integers times the scale that suits the basis best."""
    product = tl.zeros((), tl.float64)
    norm = tl.zeros((), tl.float64)
    total = tl.zeros((), tl.float64)
    whole = tl.zeros((), tl.float64)
    for k in tl.static_range(BITS):
        value = basis[k].to(tl.float64)
        product += integers[k] * value
        norm += integers[k] * integers[k]
        total += integers[k]
        whole += value
    if not SIGNED:
        product += total * whole
        norm += total * total
    scale = (product / tl.maximum(norm, 1.0)).to(tl.float32)
    moved = ()
    for k in tl.static_range(BITS):
        moved = moved + (integers[k].to(tl.float32) * scale,)
    return moved


@triton.jit
def _best_rounding(basis, BITS: tl.constexpr, SIGNED: tl.constexpr, LIMIT: tl.constexpr):
    """As `quantizers.grid._best_rounding`, a lane per candidate."""
    STEPS: tl.constexpr = 8 * LIMIT if LIMIT < 32 else 2 * LIMIT
    STEP: tl.constexpr = (LIMIT - 0.5) / (STEPS - 1)
    size = tl.zeros((), tl.float64)
    for k in tl.static_range(BITS):
        size += tl.abs(basis[k].to(tl.float64))
    size = tl.where(size > 0, size, 1.0)
    lane = tl.arange(0, 256)
    candidate = lane.to(tl.float64)
    # From both ends, so that both are exact.
    factors = tl.where(
        lane < STEPS // 2, 0.5 + STEP * candidate, LIMIT - STEP * ((STEPS - 1) - candidate)
    )
    rest = tl.zeros((256,), tl.float64)
    for k in tl.static_range(BITS):
        scaled = basis[k].to(tl.float64) / size * factors
        rest += scaled - _round(scaled)
    # With switches one value more (or less) where rounding left the most, if that pays.
    sign = tl.where(rest > 0, 1.0, tl.where(rest < 0, -1.0, 0.0)).to(tl.float64)
    most = tl.full((256,), float("-inf"), tl.float64)
    which = tl.zeros((256,), tl.int32)
    for k in tl.static_range(BITS):
        scaled = basis[k].to(tl.float64) / size * factors
        left = (scaled - _round(scaled)) * sign
        which = tl.where(left > most, k, which)
        most = tl.maximum(left, most)
    pays = most + tl.abs(rest) > 1
    product = tl.zeros((256,), tl.float64)
    norm = tl.zeros((256,), tl.float64)
    span = tl.zeros((256,), tl.float64)
    total = tl.zeros((256,), tl.float64)
    whole = tl.zeros((), tl.float64)
    integers = ()
    for k in tl.static_range(BITS):
        value = basis[k].to(tl.float64)
        p = _round(value / size * factors)
        if not SIGNED:
            p += tl.where(pays & (which == k), sign, 0.0)
        product += p * value
        norm += p * p
        span += tl.abs(p)
        total += p
        whole += value
        integers = integers + (p,)
    if not SIGNED:
        product += total * whole
        norm += total * total
    fits = (lane < STEPS) & (span <= LIMIT) & (norm > 0)
    score = tl.where(fits, product * product / tl.maximum(norm, 1.0), -1.0)
    best = tl.argmax(score, 0)
    chosen = ()
    for k in tl.static_range(BITS):
        chosen = chosen + (pick(integers[k], best),)
    return _scaled(chosen, basis, BITS, SIGNED)


@triton.jit
def sorted_levels(basis, BITS: tl.constexpr, SIGNED: tl.constexpr):
    """Levels (L,) float32, ascending, and the pattern (L,) int32 that makes each.

    A level's place is how many stand before it; of equal ones the lower pattern does.
    """
    pattern = tl.arange(0, 2**BITS)
    level = tl.zeros((2**BITS,), tl.float32)
    for k in tl.static_range(BITS):
        off = -basis[k] if SIGNED else 0.0 * basis[k]
        level += tl.where((pattern >> k) & 1 == 1, basis[k], off)
    mine, other = level[:, None], level[None, :]
    earlier = (other == mine) & (pattern[None, :] < pattern[:, None])
    rank = tl.sum(((other < mine) | earlier).to(tl.int32), 1)
    place = rank[:, None] == pattern[None, :]
    ascending = tl.sum(tl.where(place, mine, 0.0), 0)
    return ascending, tl.sum(tl.where(place, pattern[:, None], 0), 0)


@triton.jit
def levels_and_thresholds(ascending, BITS: tl.constexpr):
    """Levels (L,) as a tuple of scalars, and the L - 1 thresholds between them."""
    level, threshold = (pick(ascending, 0),), ()
    for code in tl.static_range(1, 2**BITS):
        level = level + (pick(ascending, code),)
        threshold = threshold + (0.5 * (level[code - 1] + level[code]),)
    return level, threshold


@triton.jit
def _solved(matrix, right, size: tl.constexpr):
    """Solution of a positive definite system, Gauss-Jordan without pivots; the rest is diagonal."""
    index = tl.arange(0, matrix.shape[0])
    for k in tl.static_range(size):
        row = tl.sum(tl.where(index[:, None] == k, matrix, 0.0), 0)
        column = tl.sum(tl.where(index[None, :] == k, matrix, 0.0), 1)
        factor = tl.where(index == k, 0.0, column / pick(row, k))
        right -= factor * pick(right, k)
        matrix -= factor[:, None] * row[None, :]
    return right / tl.sum(tl.where(index[:, None] == index[None, :], matrix, 0.0), 1)


@triton.jit
def move_basis(
    basis_ptr,
    counts,
    sums,
    order,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    RIDGE: tl.constexpr,
    MOMENTUM: tl.constexpr,
):
    """Fit the basis in memory to counts and sums (L,) float64, and move it towards the fit.

    As `quantizers.qem.fit_basis` (RIDGE 0 is its relative ridge), then
    basis <- MOMENTUM basis + (1 - MOMENTUM) fitted.
    """
    SIZE: tl.constexpr = 4 if BITS > 2 else 2  # a power of two; the rest of it stays zero
    k = tl.arange(0, SIZE)
    stored = tl.load(basis_ptr + k, mask=k < BITS, other=0.0)
    digit = (order[:, None] >> k[None, :]) & 1
    pattern = (2 * digit - 1 if SIGNED else digit).to(tl.float64)
    pattern = tl.where(k[None, :] < BITS, pattern, 0.0)
    weighted = pattern * counts[:, None]
    gram = tl.sum(weighted[:, :, None] * pattern[:, None, :], 0)
    moment = tl.sum(pattern * sums[:, None], 0)
    before = stored.to(tl.float64)
    residual = moment - tl.sum(gram * before[None, :], 1)
    identity = (k[:, None] == k[None, :]).to(tl.float64)
    if RIDGE == 0:
        mean = tl.sum(tl.sum(identity * gram, 1), 0) / BITS
        gram += identity * tl.maximum(1e-8 * mean, 1e-12)
    else:
        gram += identity * RIDGE
    fitted = before + _solved(gram, residual, BITS)
    finite = tl.min((tl.abs(fitted) < float("inf")).to(tl.int32), 0) == 1
    target = tl.where(finite, fitted, before)
    moved = (stored * MOMENTUM).to(tl.float64) + (1 - MOMENTUM) * target
    # Every warp has its copy of the stored basis before one of them overwrites it.
    tl.debug_barrier()
    tl.store(basis_ptr + k, moved.to(tl.float32), mask=k < BITS)
