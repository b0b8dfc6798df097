"""Training, epoch by epoch: the ensemble's scores (RS-Nets, appendix A), accuracy and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table
from rsquant.train.metrics import column

# Epochs over which the paper finds that the scores stay almost unchanged.
LAST = 3


@dataclass(frozen=True)
class History:
    """Of each epoch; by setting as rows of BatchNorm tables are named. NaN where a row lacks it."""

    epochs: list[int]
    alpha: dict[str, list[float]]
    top1: dict[str, list[float]]
    losses: dict[str, list[float]]


def history(rows: Sequence[Mapping[str, str]]) -> History:
    """From the rows of metrics.csv, see `rsquant.train.metrics.read_metrics`."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    settings = [n.removeprefix("alpha_") for n in names if n.startswith("alpha_")]
    top1 = {name: column(rows, f"val_top1_{name}") for name in (*settings, "ensemble")}
    losses = ("classification", "ensemble", "distillation")
    return History(
        [int(row["epoch"]) for row in rows],
        {name: column(rows, f"alpha_{name}") for name in settings},
        {name: values for name, values in top1.items() if not _empty(values)},
        {name: column(rows, f"train_{name}") for name in losses if f"train_{name}" in names},
    )


def moved_last(values: Sequence[float]) -> float:
    """How far a score moved in the last LAST epochs: the largest distance from its last value."""
    tail = values[-LAST - 1 :]
    return max((abs(value - tail[-1]) for value in tail), default=0.0)


def section(run: str, found: History) -> Section:
    """Three pictures in one, and the scores at the end."""
    with drawn(height=2.8, columns=3) as (figure, grid):
        panels = (
            (grid[0, 0], found.alpha, "ensemble's scores alpha"),
            (grid[0, 1], found.top1, "validation top-1, %"),
            (grid[0, 2], found.losses, "training losses"),
        )
        short = len(found.epochs) <= 30
        for axes, curves, title in panels:
            for index, (name, values) in enumerate(curves.items()):
                look = style(index, marker=short) | {"markersize": 3}
                axes.plot(found.epochs, values, label=name, **look)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
            axes.legend()
        grid[0, 0].set_ylim(bottom=0)
        says = "Scores of the ensemble, validation accuracy and training losses over epochs."
        picture = Picture("history", png(figure), says)
    rows = [
        [name, f"{values[-1]:.3f}", f"{moved_last(values):.3f}"]
        for name, values in found.alpha.items()
    ]
    text = [
        "The ensemble of all sizes, which teaches them, sums their logits with the scores alpha. "
        "They are learned, and add up to 1.",
    ]
    table = Table(("size", "alpha at the end", f"moved in the last {LAST} epochs"), rows)
    return Section("history", "Training", text, vars(found), (picture,), (table,), run)


def _empty(values: Sequence[float]) -> bool:
    return all(value != value for value in values)
