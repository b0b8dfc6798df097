"""QEM: fit a basis to the values it quantizes, from L counts and L sums alone.

Minimising sum_i (x_i - basis . pattern(x_i))**2 over the basis for fixed codes gives the normal
equations B'B basis = B'x. With n_l values on level l, s_l their sum and c_l the level's pattern,

    B'B = sum_l n_l c_l c_l'        B'x = sum_l s_l c_l

so one pass over the data is enough, and counts and sums of several resolutions or processes add.

Source: LQ-Nets (arXiv 1807.10029), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The published ridge of the weight solve.
WEIGHT_RIDGE = 1e-4


def counts_and_sums(x: Tensor, codes: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """How many values took each level, and their sum.

    Args:
        x: (..., n) float32.
        codes: (..., n) int64 in 0 .. levels - 1.
        levels: L.
    Returns:
        counts, sums: (..., L) float64.
    """
    # One pass per level vectorises on every device; scatter_add does not.
    counts, sums = [], []
    for level in range(levels):
        taken = codes == level
        counts.append(taken.sum(-1).double())
        sums.append(torch.where(taken, x, 0.0).sum(-1, dtype=torch.float64))
    return torch.stack(counts, -1), torch.stack(sums, -1)


def fit_basis(
    counts: Tensor,
    sums: Tensor,
    pattern: Tensor,
    basis: Tensor,
    ridge: float | None = None,
    uses: Tensor | None = None,
) -> Tensor:
    """Least-squares basis for fixed codes, staying where the data says nothing.

    Solves (B'B + ridge I) d = B'x - B'B basis in float64 and returns basis + d, which equals
    (B'B + ridge I)^-1 (B'x + ridge basis). Singular B'B is normal (few levels populated).

    Args:
        counts, sums: (..., L).
        pattern: (..., L, K), the pattern of each level, in the order of the counts.
        basis: (..., K), the stored basis.
        ridge: absolute; None means 1e-8 of B'B's mean diagonal, which leaves a well-populated
            solution unchanged to about 1e-8.
        uses: (K,), descending: of nested quantizers (`nested`), how many use each vector; their
            errors are minimised together.
    Returns:
        (..., K) float64. Where counts, sums or the solution are not finite, the stored basis.
    """
    counts, sums, pattern, stored = (t.double() for t in (counts, sums, pattern, basis))
    weighted = pattern * counts.unsqueeze(-1)
    gram = pattern.transpose(-1, -2) @ weighted
    moment = (pattern * sums.unsqueeze(-1)).sum(-2)
    if uses is not None:
        gram, moment = gram * torch.minimum(uses, uses.unsqueeze(-1)), moment * uses
    residual = moment - (gram @ stored.unsqueeze(-1)).squeeze(-1)
    identity = torch.eye(stored.shape[-1], dtype=torch.float64, device=stored.device)
    if ridge is None:
        mean_diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
        strength = (1e-8 * mean_diagonal).clamp_min(1e-12)[..., None, None]
        gram = gram + strength * identity
    else:
        gram = gram + ridge * identity
    # solve_ex never raises and never waits for the device.
    change = torch.linalg.solve_ex(gram, residual.unsqueeze(-1)).result.squeeze(-1)
    fitted = stored + change
    return torch.where(torch.isfinite(fitted).all(-1, keepdim=True), fitted, stored)
