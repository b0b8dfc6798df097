"""A picture of cascades: accuracy against what an image costs, beside the single sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rsquant.atomic import replacing
from rsquant.report.confusion import check_picture


class Row(Protocol):
    """What `rsquant.evaluate.cascades.Row` is to this picture."""

    @property
    def name(self) -> str: ...
    @property
    def top1(self) -> float: ...
    @property
    def madds(self) -> float: ...
    @property
    def milliseconds(self) -> float: ...


class Measured(Protocol):
    """What `rsquant.evaluate.cascades.CascadeReport` is to this picture."""

    @property
    def fixed(self) -> Sequence[Row]: ...
    @property
    def front(self) -> Sequence[Row]: ...
    @property
    def chosen(self) -> Row: ...
    @property
    def reported(self) -> int: ...


def draw_cascade(path: Path, measured: Measured) -> None:
    """Draw top-1 against average multiply-adds, and against average milliseconds.

    Raises:
        ConfigError: no name of a picture. RsquantError: it cannot be written.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    kinds = (
        ("million multiply-adds an image, on average", lambda row: row.madds / 1e6),
        ("milliseconds an image, on average", lambda row: row.milliseconds),
    )
    for axes, (label, cost) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        front = sorted(measured.front, key=cost)
        axes.plot(
            [cost(row) for row in front],
            [row.top1 for row in front],
            ".-",
            color="tab:blue",
            label="cascades",
        )
        axes.plot(
            [cost(row) for row in measured.fixed],
            [row.top1 for row in measured.fixed],
            "s--",
            color="0.3",
            label="one size for all",
        )
        for row in measured.fixed:
            axes.annotate(
                f"{row.name} px",
                (cost(row), row.top1),
                xytext=(5, -12),
                textcoords="offset points",
            )
        axes.plot(
            [cost(measured.chosen)],
            [measured.chosen.top1],
            "*",
            markersize=14,
            color="tab:red",
            label="stored in the file",
        )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        # On the right there is room for the last size's name.
        axes.margins(x=0.22, y=0.12)
        axes.set_xlim(left=0)
    figure.axes[0].set_ylabel(f"top-1 % of {measured.reported} images")
    figure.axes[0].legend(loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
