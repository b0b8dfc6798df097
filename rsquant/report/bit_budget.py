"""A budget for the bits of layers, and the best bits within it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rsquant.errors import ConfigError
from rsquant.text import brief

# Bits a layer can be given.
WIDTHS = (1, 2, 3, 4)
# Sizes are told apart to this share of the budget, and rounded up.
STEPS = 4000
_BUDGET = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*(%|KB|MB)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """Bytes of all weights (1 KB is 1,000), or the least top-1 in percent: one of the two."""

    size: int | None = None
    top1: float | None = None

    def __str__(self) -> str:
        return f"{self.top1:g} %" if self.size is None else f"{self.size / 1000:,.1f} KB"


def parse_budget(text: str) -> Budget:
    """300KB, 1.5MB or 70%. Raises ConfigError for anything else."""
    match = _BUDGET.fullmatch(text)
    number = float(match[1]) if match else 0.0
    if match is None or number <= 0 or (match[2] == "%" and number > 100):
        raise ConfigError(
            "suggest_bits: must be a size of the weights like 300KB or 1.5MB, or a top-1 accuracy "
            f"like 70%, got {brief(text)}"
        )
    if match[2] == "%":
        return Budget(top1=number)
    return Budget(size=round(number * (1e3 if match[2].upper() == "KB" else 1e6)))


def best_bits(
    costs: Sequence[Mapping[int, float]], sizes: Sequence[Mapping[int, int]], budget: int
) -> list[int] | None:
    """Bits of each unit with the least sum of costs in a budget of bytes.

    min sum_u costs[u][b_u]  subject to  sum_u sizes[u][b_u] <= budget

    By dynamic programming over sizes in STEPS steps of the budget, rounded up: always within the
    budget, and the least of all where sizes are multiples of a step.

    Args:
        costs: of each unit, bits -> cost; finite.
        sizes: bits -> bytes, of the same bits.
        budget: bytes.
    Returns:
        None where even the smallest does not fit.
    """
    step = max(1, math.ceil(budget / STEPS))
    room = budget // step
    least = np.zeros(room + 1)  # of the units so far, by the room they may take
    chosen: list[np.ndarray] = []
    for cost, size in zip(costs, sizes, strict=True):
        best = np.full(room + 1, np.inf)
        bits_at = np.zeros(room + 1, np.int8)
        for bits in sorted(cost):
            needed = -(-size[bits] // step)
            if needed > room:
                continue
            found = least[: room + 1 - needed] + cost[bits]
            better = found < best[needed:]
            best[needed:][better] = found[better]
            bits_at[needed:][better] = bits
        least = best
        chosen.append(bits_at)
    if not np.isfinite(least[room]):
        return None
    left, bits_of = room, []
    for bits_at, size in zip(reversed(chosen), reversed(sizes), strict=True):
        bits = int(bits_at[left])
        bits_of.append(bits)
        left -= -(-size[bits] // step)
    return bits_of[::-1]
