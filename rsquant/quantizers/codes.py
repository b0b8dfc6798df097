"""Levels of a learned basis, and which level a value takes.

A basis of K values spans L = 2**K levels: level = sum_k basis_k * pattern_k, where a pattern is a
row of K signs (weights, {-1, +1}) or switches (activations, {0, 1}). A basis may come out unsorted
or negative, so a level's pattern is always found through the sort.

Source: LQ-Nets (arXiv 1807.10029), section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def patterns(bits: int, signed: bool) -> Tensor:
    """All L = 2**bits sign or switch patterns; row l holds the binary digits of l, lowest first.

    Args:
        bits: K, 1 to 4.
        signed: digits are {-1, +1} (weights) if true, {0, 1} (activations) if false.
    Returns:
        (L, K) float32.
    """
    digits = (torch.arange(2**bits).unsqueeze(1) >> torch.arange(bits)) & 1
    return (2.0 * digits - 1.0) if signed else digits.float()


def numbers(bits: int, signed: bool) -> Tensor:
    """(L,) int64: 0 .. L - 1, or -L / 2 .. L / 2 - 1 if signed."""
    return torch.arange(2**bits) - (2 ** (bits - 1) if signed else 0)


def twos_complement(bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """What the digits of `numbers` are worth, and each number's digits.

    Returns:
        basis: (K,) int64; the last is negative if signed. patterns: (L,) int64, bit k is digit k.
    """
    basis = 2 ** torch.arange(bits)
    if signed:
        basis[-1] *= -1
    return basis, numbers(bits, signed) % 2**bits


def sorted_levels(basis: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of a basis in ascending order, and which pattern makes each.

    Args:
        basis: (..., K) float32.
        pattern: (L, K) float32, from `patterns`.
    Returns:
        levels: (..., L) float32, ascending.
        order: (..., L) int64; `pattern[order[l]]` makes `levels[l]`.
    """
    # Not a matrix product: under autocast that would round the levels to bfloat16.
    levels = (basis.unsqueeze(-2) * pattern).sum(-1)
    return torch.sort(levels, dim=-1, stable=True)


def thresholds(levels: Tensor) -> Tensor:
    """Midpoints (..., L - 1) between neighbouring levels (..., L)."""
    return 0.5 * (levels[..., :-1] + levels[..., 1:])


def assign(x: Tensor, threshold: Tensor) -> Tensor:
    """Index of the level each value takes: how many thresholds it is strictly greater than.

    Ties go down; NaN takes level 0.

    Args:
        x: (..., n) float32.
        threshold: (..., L - 1) float32, ascending, with the leading dimensions of `x`, or (L - 1,).
    Returns:
        (..., n) int64 in 0 .. L - 1.
    """
    codes = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    for step in threshold.unbind(-1):
        codes += x > step.unsqueeze(-1)
    return codes
