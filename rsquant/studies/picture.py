"""A study's table as a picture: accuracy by row, or gains over the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsquant.studies.cells import Block
from rsquant.studies.outcome import Mean
from rsquant.studies.study import Table
from rsquant.tasks.base import Figure

_MARKS = "osD^vPX*<>"


def decimals(shown: Figure) -> int:
    """Of a mean over seeds: tenths of a percent, which seeds differ by; others as everywhere."""
    return 1 if shown.unit == "%" else shown.decimals


def draw(table: Table, cells: Sequence[Block], shown: Figure, path: Path) -> None:
    """Draw a table, one panel per group, with standard errors as bars.

    Args:
        shown: the table's first figure.
    """
    # matplotlib's figure without pyplot: no display, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 4.6 * len(cells), 4.2), layout="constrained")
    panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
    for axes, block in zip(panels, cells, strict=True):
        if table.plot == "lines":
            _lines(axes, table, block)
        else:
            _gains(axes, table, block, shown)
        axes.set_title(block.group or table.title, fontsize=10)
        axes.set_xlabel("resolution, pixels" if table.rows is None else "")
        axes.grid(alpha=0.3, axis="y")
    what = f"{shown.title}, {shown.unit}" if shown.unit else shown.title
    panels[0].set_ylabel(what if table.plot == "lines" else f"{what}, over {table.baseline}")
    if panels[-1].get_legend_handles_labels()[0]:
        panels[-1].legend(fontsize=8)
    if cells[0].group:
        figure.suptitle(table.title, fontsize=11)
    figure.savefig(path, dpi=130, format="png")


def _lines(axes: Any, table: Table, block: Block) -> None:
    """A line per column, rows from left to right as the table has them from the bottom up."""
    rows = block.rows[::-1]
    places = range(len(rows))
    for index, column in enumerate(table.columns):
        means = [row.cells[index].means[0] if row.cells[index].means else None for row in rows]
        if any(means):
            style = {"marker": _MARKS[index % len(_MARKS)], "color": f"C{index}", "capsize": 3}
            axes.errorbar(places, *_values(means), label=column.title, **style)
    axes.set_xticks(places, [row.title for row in rows])


def _gains(axes: Any, table: Table, block: Block, figure: Figure) -> None:
    """Groups of bars by row, a bar per column; the baseline's value is under its row."""
    rows = block.rows
    shown = [
        (index, column)
        for index, column in enumerate(table.columns)
        if column.of is not None and column.title != table.baseline
    ]
    width = 0.8 / max(1, len(shown))
    for place, (index, column) in enumerate(shown):
        gains = [row.cells[index].gain for row in rows]
        values, errors = _values(gains)
        offset = (place - (len(shown) - 1) / 2) * width
        axes.bar(
            [x + offset for x in range(len(rows))],
            values,
            width,
            yerr=errors,
            capsize=2,
            label=column.title,
            color=f"C{place}",
        )
    base = [column.title for column in table.columns].index(table.baseline or "")
    names = []
    for row in rows:
        means = row.cells[base].means
        if means and means[0]:
            value = f"{means[0].value:.{decimals(figure)}f} {figure.unit}".rstrip()
            names.append(f"{row.title}\n({value})")
        else:
            names.append(row.title)
    axes.axhline(0, color="k", linewidth=0.8)
    axes.set_xticks(range(len(rows)), names)


def _values(means: Sequence[Mean | None]) -> tuple[list[float], list[float]]:
    """Values and standard errors; NaN, which is not drawn, where there is none."""
    values = [float("nan") if one is None else one.value for one in means]
    return values, [0.0 if one is None or one.error is None else one.error for one in means]
