"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsquant.report.answers import Answers
from rsquant.report.confusion import NAMED, NUMBERED, draw_matrix
from rsquant.report.picture import drawn, png
from rsquant.report.section import Picture, Section, Table

# Rows of the table; classes up to which the figures hold the whole matrix.
PAIRS, KEPT = 10, 200


def confusion(found: Answers, size: int, classes: int) -> NDArray[np.int64]:
    """(C, C) images of class i (row) whose highest logit is class j's."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (found.labels, found.logits[size].argmax(1)), 1)
    return counts


def most_confused(counts: NDArray[np.int64], most: int = PAIRS) -> list[tuple[int, int, float]]:
    """(class, taken for, % of its images) of the largest shares that are wrong, largest first."""
    share = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind="stable")[:most]
    pairs = [divmod(int(flat), len(counts)) for flat in order]
    return [(i, j, float(share[i, j])) for i, j in pairs if share[i, j] > 0]


def section(run: str, found: Answers, sizes: Sequence[int], classes: Sequence[str]) -> Section:
    """The matrix at the largest and, of few classes, the smallest size; and the worst pairs."""
    counts = {size: confusion(found, size, len(classes)) for size in sizes}
    shown = list(dict.fromkeys((max(sizes), min(sizes))))
    shown = shown if len(classes) <= NUMBERED else shown[:1]
    pictures = []
    if len(classes) <= NAMED:
        height = 3.3 if len(shown) > 1 else 5.5
        with drawn(height=height, columns=len(shown)) as (figure, grid):
            for axes, size in zip(grid[0], shown, strict=True):
                title = f"{size} pixels, top-1 {found.top1(size):.1f} %"
                image = draw_matrix(axes, counts[size].astype(float), classes, title, 6.5)
            bar = figure.colorbar(image, ax=grid, shrink=0.6)
            bar.set_label("% of the images of a class")
            says = "Confusion matrix: true classes in rows, predicted ones in columns."
            pictures.append(Picture("confusion", png(figure, shades=True), says))
    rows = [
        [str(size), classes[i], classes[j], f"{share:.1f}"]
        for size in shown
        for i, j, share in most_confused(counts[size])
    ]
    text = ["Of the images of each class, percent that are taken for which."]
    figures = {
        str(size): {
            "confusion": counts[size].tolist() if len(classes) <= KEPT else None,
            "pairs": [(classes[i], classes[j], s) for i, j, s in most_confused(counts[size])],
        }
        for size in sizes
    }
    table = Table(("size", "class", "taken for", "%"), rows, "most frequent confusions")
    return Section("confusion", "Confusions", text, figures, pictures, (table,), run)
