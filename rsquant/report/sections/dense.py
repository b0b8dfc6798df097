"""Accuracy at dense sizes, most of which were not trained (RS-Nets, figure 4, right)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsquant.report.answers import Answers
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table

# The most sizes between and beside the trained ones.
MOST = 12


def dense_sizes(trained: Sequence[int], stride: int) -> list[int]:
    """Sizes to measure at, ascending: the trained ones and some evenly between and beside them.

    They are apart by a multiple of 8 pixels, the paper's 16 for its sizes, and begin and end one
    step outside the trained ones.

    Args:
        trained: in pixels.
        stride: the smallest size that the network takes.
    """
    low, high = min(trained), max(trained)
    step = 8
    while (high - low) // step + 3 > MOST:
        step += 8
    between = range(low - step, high + step + 1, step)
    return sorted({*trained, *(size for size in between if size >= stride)})


def section(
    found: Mapping[str, Answers], trained: Mapping[str, Sequence[int]], images: int, total: int
) -> Section:
    """Top-1 of every run at every size; each on the same images.

    Args:
        found: by run, at the sizes to show.
        trained: by run.
        images, total: how many were measured, of how many.
    """
    curves = {
        run: {size: one.top1(size) for size in sorted(one.logits)} for run, one in found.items()
    }
    with drawn(height=3.4) as (figure, grid):
        axes = grid[0, 0]
        for index, (run, curve) in enumerate(curves.items()):
            look = style(index)
            axes.plot(list(curve), list(curve.values()), **{**look, "marker": None})
            own = [s for s in curve if s in trained[run]]
            rest = [s for s in curve if s not in trained[run]]
            point = {"color": look["color"], "marker": look["marker"], "linestyle": "", "label": ""}
            axes.plot(own, [curve[s] for s in own], **{**point, "label": run}, markersize=6)
            axes.plot(rest, [curve[s] for s in rest], **point, markersize=4, fillstyle="none")
        axes.set_xlabel("image size, pixels")
        axes.set_ylabel("top-1, %")
        axes.grid(alpha=0.3)
        axes.legend(title="filled: trained sizes")
        picture = Picture("dense", png(figure), "Top-1 accuracy over image size, a curve per run.")
    sizes = sorted({size for curve in curves.values() for size in curve})
    rows = [
        [run, *(_cell(curve.get(size), size in trained[run]) for size in sizes)]
        for run, curve in curves.items()
    ]
    subset = "all" if images == total else f"{images:,} of {total:,}, evenly over the classes,"
    text = [
        f"Top-1 in percent at sizes that were trained (filled; bold in the table) and not, on "
        f"{subset} validation images. Between two trained sizes BatchNorms are interpolated, "
        "outside them those of the nearest are used.",
    ]
    table = Table(("run", *map(str, sizes)), rows, "top-1, %, by size in pixels", _marks(rows))
    figures = {
        "images": images,
        "top1": {run: {str(size): top1 for size, top1 in c.items()} for run, c in curves.items()},
    }
    return Section("dense", "Sizes that were not trained", text, figures, (picture,), (table,))


def _cell(top1: float | None, trained: bool) -> str:
    return "" if top1 is None else f"{top1:.1f}{'*' if trained else ''}"


def _marks(rows: list[list[str]]) -> dict[tuple[int, int], str]:
    """Sets off the cells of trained sizes, and takes their star away."""
    marks = {}
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if j and cell.endswith("*"):
                row[j], marks[i, j] = cell[:-1], "strong"
    return marks
