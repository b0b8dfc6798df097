"""All small integer bases that may be nearest to a real one; see `quantizers.grid`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Limits up to which all integer bases are compared: 235 for weights of 4 bits.
EXACT = 15


@cache
def integer_bases(
    bits: int, limit: int, signed: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Candidates for the integer basis p nearest to a real one, v, whose values descend.

    The metric M is the same for any order of the values, so the best p descends as v does; with
    signs it is the same for any of them too, and p as |v| has no negative values. Multiples of
    another p have its direction and are left out. The best p is the one whose direction has the
    largest product with v.

    Args:
        bits: K. limit: largest sum of |p|, at most EXACT.
        signed: M = I (weights) if true, I + 11' (activations) if false.
    Returns:
        p: (K, P), the smallest sums first. directions: (K, P), M p / sqrt(p'Mp).
    """
    low = 0 if signed else -limit
    rows = [p for p in _descending(bits, low, limit, limit) if math.gcd(*p) == 1]
    rows.sort(key=lambda row: sum(map(abs, row)))
    p = np.array(rows, np.float64).T.copy()
    image = p if signed else p + p.sum(0)
    return p, image / np.sqrt((p * image).sum(0))


def _descending(length: int, low: int, high: int, limit: int) -> Iterator[tuple[int, ...]]:
    """Integers from `high` down to `low` in descending order, |.| at most `limit` in sum."""
    if length == 0:
        yield ()
        return
    for first in range(min(high, limit), max(low, -limit) - 1, -1):
        for rest in _descending(length - 1, low, first, limit - abs(first)):
            yield (first, *rest)
