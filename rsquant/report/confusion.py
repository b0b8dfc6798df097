"""A picture of which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsquant.atomic import replacing
from rsquant.errors import ConfigError
from rsquant.tasks import Task

SUFFIXES = (".png", ".svg", ".pdf")
# Names at the axes, and numbers in the cells, up to so many classes.
NAMED, NUMBERED = 60, 15


class Measured(Protocol):
    """What `rsquant.evaluate.report.Report` is to this picture."""

    @property
    def task(self) -> Task: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


def check_picture(path: Path) -> None:
    """Raise ConfigError unless a file's name says which kind of picture it is."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a picture is a {', '.join(SUFFIXES)} file; name such a file")


def draw_matrix(
    axes: Any,
    counts: NDArray[np.float64],
    classes: Sequence[str],
    title: str,
    small: float = 8,
) -> Any:
    """Draw one confusion matrix, in percent of a class's samples; the image, for a colour bar.

    Args:
        counts: (C, C) of samples of class i (row) that are taken for class j.
        small: size of the names in points.
    """
    count = len(classes)
    share = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_title(title)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    if count <= NAMED:
        ticks = range(count)
        axes.set_xticks(ticks, classes, rotation=90, fontsize=small)
        axes.set_yticks(ticks, classes, fontsize=small)
    if count <= NUMBERED:
        for i, j in np.ndindex(count, count):
            if share[i, j] >= 0.5:
                colour = "white" if share[i, j] > 60 else "black"
                text = f"{share[i, j]:.0f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=small - 1, color=colour)
    return image


def draw_confusion(path: Path, measured: Measured) -> None:
    """Draw the confusion matrix of every row: share of a class's samples, in percent.

    Args:
        path: of a picture, see `check_picture`.
        measured: its rows have "confusion", (C, C) counts.
    Raises:
        ConfigError: the task has none, or there are too many classes for one.
    """
    # matplotlib's figure without pyplot: no display, no global state.
    from matplotlib.figure import Figure

    check_picture(path)
    rows = [row for row in measured.rows if row.get("confusion")]
    if not rows:
        raise ConfigError("confusion: this task, or so many classes, has none; leave it out")
    count = len(measured.classes)
    side = min(9.0, 2.5 + 0.3 * count)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(side * columns, side * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        counts = np.array(row["confusion"], float)
        image = draw_matrix(axes, counts, measured.classes, _title(measured.task, row))
    bar = figure.colorbar(image, ax=grid, shrink=0.6)
    bar.set_label(f"% of the {measured.task.samples_name} of a class")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:])


def _title(task: Task, row: Mapping[str, Any]) -> str:
    """The setting of a row and the task's main figure."""
    setting = [f"{row['resolution']} pixels"]
    if "width" in row:
        setting.append(f"width {row['width']:g}")
    if "bits" in row:
        setting.append(f"bits {row['bits']}")
    return f"{', '.join(setting)}\n{task.main.title} {row[task.main.name]:.1f} {task.main.unit}"
