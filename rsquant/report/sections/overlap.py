"""Who is right where: images that one size gets right and another one wrong (RS-Nets, table 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsquant.report.answers import Answers
from rsquant.report.section import Section, Table


def wrong_and_right(right: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Percent of images that are wrong at size i (row) and right at size j (column).

    Args:
        right: of each of S sizes, (N,) whether each image is right.
    Returns:
        (S, S), the diagonal 0.
    Source: RS-Nets (arXiv 2007.09558), table 1.
    """
    hits = np.stack(right).astype(np.float64)
    share: NDArray[np.float64] = 100 * (1 - hits) @ hits.T / hits.shape[1]
    return share


def section(run: str, found: Answers, sizes: Sequence[int]) -> Section:
    """The table of a run, at its trained sizes, and what any or all of them get right."""
    right = [found.right(size) for size in sizes]
    share = wrong_and_right(right)
    hits = np.stack(right)
    whole = {
        "right_at_any_size": 100 * float(hits.any(0).mean()),
        "right_at_all_sizes": 100 * float(hits.all(0).mean()),
    }
    rows = [
        [str(size), *("–" if i == j else f"{share[i, j]:.1f}" for j in range(len(sizes)))]
        for i, size in enumerate(sizes)
    ]
    text = [
        f"Percent of {hits.shape[1]:,} validation images that are wrong at the size of the row (✗) "
        "and right at the size of the column (✓). Where no number is 0, no size is best for every "
        "image, and an ensemble of sizes can be better than each.",
        f"{whole['right_at_any_size']:.1f} % are right at one size at least, "
        f"{whole['right_at_all_sizes']:.1f} % at all sizes.",
    ]
    figures = {"sizes": list(sizes), "wrong_right": share.tolist(), **whole}
    table = Table(("✗ \\ ✓", *map(str, sizes)), rows)
    return Section("overlap", "Who is right where", text, figures, (), (table,), run)
