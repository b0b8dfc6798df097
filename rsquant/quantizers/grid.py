"""Integer grids: the nearest basis of small integers, so that a network's products are integers.

A basis v is replaced by s p with integers p, |p_1| + ... + |p_K| <= limit, and a free scale s.
All levels are then integer multiples of s, at most `limit` of them: an int8 product computes with
them exactly. "Nearest" is in the mean square of the levels, over all L patterns alike:

    signs {-1, +1}:     sum_patterns (d . c)^2 = L |d|^2                        M = I
    switches {0, 1}:    sum_patterns (d . c)^2 = L / 4 (|d|^2 + (sum d)^2)      M = I + 11'

For fixed p the best scale is p'Mv / p'Mp, and the error it leaves falls as (p'Mv)^2 / p'Mp rises.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rsquant.errors import ConfigError
from rsquant.kernels.integer_bases import EXACT, integer_bases

# A name for users: the limits of weight levels (see `limits` for 4 bits) and activation levels. On
# the coarse grid a 3x3 convolution by Winograd's F(2x2) still fits int8; on the fine one a plain
# product does.
GRIDS: dict[str, tuple[int | None, int | None]] = {
    "none": (None, None),
    "fine": (127, 127),
    "coarse": (14, 15),
}


def limits(grid: str, wbits: int = 2) -> tuple[int | None, int | None]:
    """Largest weight and activation level of a named grid; None is the published rule.

    2**K different levels need 1 + 2 + .. + 2**(K-1) = 2**K - 1, so weights of 4 bits have 15 where
    others have 14 on the coarse grid. Kernels look at the levels of each layer, not at the name of
    the grid: one with levels of 15 runs on those that take them.

    Raises:
        ConfigError: an unknown name.
    """
    if grid not in GRIDS:
        raise ConfigError(f"grid: must be one of {', '.join(GRIDS)}, got '{grid}'")
    weights, activations = GRIDS[grid]
    if weights is not None and wbits <= 4:
        weights = max(weights, 2**wbits - 1)
    return weights, activations


def snap(basis: Tensor, limit: int, signed: bool) -> tuple[Tensor, Tensor]:
    """The nearest integer basis, and its scale.

    Up to a limit of 15 all integer bases are compared, so none is nearer. Beyond it the candidates
    are roundings of |basis| t for scales t up to the limit: on the fine grid (127) the mean square
    error is at most 5 % above the least, at limits in between at most twice it. Tests compare both
    with brute force, for bases as wide as 1 : 1000.

    Args:
        basis: (..., K) float32.
        limit: largest sum of |p|, 1 or more.
        signed: patterns are {-1, +1} (weights) if true, {0, 1} (activations) if false.
    Returns:
        p: (..., K) int64, the signs of `basis`. scale: (...) float32, not negative.
    """
    v = basis.double()
    p = _best_of_all(v, limit, signed) if limit <= EXACT else _best_rounding(v, limit, signed)
    product, norm = _products(p, v, signed)
    scale = product / norm.clamp_min(1.0)
    return p.long(), scale.float()


def _products(p: Tensor, v: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """p'Mv and p'Mp over the last dimension."""
    product, norm = (p * v).sum(-1), p.square().sum(-1)
    if not signed:
        product = product + p.sum(-1) * v.sum(-1)
        norm = norm + p.sum(-1).square()
    return product, norm


def _best_of_all(v: Tensor, limit: int, signed: bool) -> Tensor:
    """The best p of all; see `integer_bases`."""
    integers, directions = _candidates(v.shape[-1], limit, signed, v.device)
    ordered, order = torch.sort(v.abs() if signed else v, dim=-1, descending=True, stable=True)
    # Not a matrix product: the sum's order is that of the fused kernels.
    score = ordered[..., :1] * directions[0]
    for k in range(1, v.shape[-1]):
        score = score + ordered[..., k : k + 1] * directions[k]
    chosen = integers.index_select(0, score.argmax(-1).flatten()).view_as(v)
    p = torch.zeros_like(v).scatter(-1, order, chosen)
    return torch.where(v < 0, -p, p) if signed else p


def _candidates(bits: int, limit: int, signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """`integer_bases` on a device: p (P, K), and a row of directions (P,) per basis value."""
    return _moved_candidates(bits, limit, signed, device)


# What torch.compiler.assume_constant_result does, which would import Triton: torch.compile then
# takes the tensors as they are, and does not look into the cache.
_candidates._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _moved_candidates(
    bits: int, limit: int, signed: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    p, directions = integer_bases(bits, limit, signed)
    return torch.tensor(p.T, device=device), torch.tensor(directions, device=device)


def _best_rounding(v: Tensor, limit: int, signed: bool) -> Tensor:
    """The best p among the roundings of v to many scales."""
    size = v.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # Steps of an eighth where a unit is a large part of the limit.
    steps = 8 * limit if limit < 32 else 2 * limit
    scales = torch.linspace(0.5, limit, steps, dtype=torch.float64, device=v.device)
    scaled = (v / size).unsqueeze(-2) * scales.unsqueeze(-1)
    p = torch.round(scaled)  # (..., steps, K)
    if not signed:
        # (sum d)^2 asks for a small sum of what rounding left, r: one more of p_j changes the error
        # by 2 - 2 (r_j + sum r), so it pays where r_j + sum r > 1, and one less below -1.
        left = scaled - p
        total = left.sum(-1, keepdim=True)
        sign = torch.sign(total)
        most, where = (left * sign).max(-1, keepdim=True)
        p = p.scatter_add(-1, where, sign * (most + total.abs() > 1))
    product, norm = _products(p, v.unsqueeze(-2), signed)
    fits = (p.abs().sum(-1) <= limit) & (norm > 0)
    score = torch.where(fits, product.square() / norm.clamp_min(1.0), -1.0)
    best = score.argmax(-1, keepdim=True)
    return p.gather(-2, best.unsqueeze(-1).expand(*best.shape, p.shape[-1])).squeeze(-2)


def snapped(basis: Tensor, limit: int | None, signed: bool) -> Tensor:
    """The basis on its grid, (..., K) float32; the basis itself without a limit."""
    if limit is None:
        return basis
    p, scale = snap(basis, limit, signed)
    return p.float() * scale.unsqueeze(-1)
