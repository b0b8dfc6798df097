"""Integer grids: the nearest basis of small integers, so that a network's products are integers.

A basis v is replaced by s p with integers p, |p_1| + ... + |p_K| <= limit, and a free scale s.
All levels are then integer multiples of s, at most `limit` of them: an int8 product computes with
them exactly. "Nearest" is in the mean square of the levels, over all L patterns alike:

    signs {-1, +1}:     sum_patterns (d . c)^2 = L |d|^2                        M = I
    switches {0, 1}:    sum_patterns (d . c)^2 = L / 4 (|d|^2 + (sum d)^2)      M = I + 11'

For fixed p the best scale is p'Mv / p'Mp, and the error it leaves falls as (p'Mv)^2 / p'Mp rises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsquant.errors import ConfigError

# A name for users: the limits of weight and activation levels. On the coarse grid a 3x3
# convolution by Winograd's F(2x2) still fits int8; on the fine one a plain product does.
GRIDS: dict[str, tuple[int | None, int | None]] = {
    "none": (None, None),
    "fine": (127, 127),
    "coarse": (14, 15),
}


def limits(grid: str) -> tuple[int | None, int | None]:
    """Largest weight and activation level of a named grid; None is the published rule."""
    if grid not in GRIDS:
        raise ConfigError(f"grid: must be one of {', '.join(GRIDS)}, got '{grid}'")
    return GRIDS[grid]


def snap(basis: Tensor, limit: int, signed: bool) -> tuple[Tensor, Tensor]:
    """The nearest integer basis, and its scale.

    Candidates are the roundings of |basis| t for scales t up to the limit. For one and two values
    the best p was among them wherever it was looked for by brute force; for three and four, where
    it may be one that the limit keeps from being a rounding, the mean square error was at most
    10 % above the least.

    Args:
        basis: (..., K) float32.
        limit: largest sum of |p|, 1 or more.
        signed: patterns are {-1, +1} (weights) if true, {0, 1} (activations) if false.
    Returns:
        p: (..., K) int64, the signs of `basis`. scale: (...) float32, not negative.
    """
    v = basis.double()
    size = v.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    # Steps of an eighth where a unit is a large part of the limit.
    steps = 8 * limit if limit < 32 else 2 * limit
    scales = torch.linspace(0.5, limit, steps, dtype=torch.float64, device=basis.device)
    p = torch.round((v / size).unsqueeze(-2) * scales.unsqueeze(-1))  # (..., steps, K)
    product = (p * v.unsqueeze(-2)).sum(-1)  # p'Mv
    norm = p.square().sum(-1)  # p'Mp
    if not signed:
        product = product + p.sum(-1) * v.sum(-1, keepdim=True)
        norm = norm + p.sum(-1).square()
    fits = (p.abs().sum(-1) <= limit) & (norm > 0)
    score = torch.where(fits, product.square() / norm.clamp_min(1.0), -1.0)
    best = score.argmax(-1, keepdim=True)
    chosen = p.gather(-2, best.unsqueeze(-1).expand(*best.shape, p.shape[-1])).squeeze(-2)
    scale = product.gather(-1, best) / norm.gather(-1, best).clamp_min(1.0)
    return chosen.long(), scale.squeeze(-1).float()


def snapped(basis: Tensor, limit: int | None, signed: bool) -> Tensor:
    """The basis on its grid, (..., K) float32; the basis itself without a limit."""
    if limit is None:
        return basis
    p, scale = snap(basis, limit, signed)
    return p.float() * scale.unsqueeze(-1)
