"""Accuracy against cost: multiply-adds and measured milliseconds (RS-Nets, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsquant.report.latency import Latency
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table

# Costs of which the largest is so many times the smallest are drawn on a logarithmic axis.
FAR_APART = 20


@dataclass(frozen=True)
class Point:
    """A run at a size it was trained at.

    Attributes:
        error: standard error of top1, in points: of N images drawn from many.
        madds: multiply-adds for one image.
        ms, q1, q3: median and quartiles of milliseconds for one image.
    """

    run: str
    size: int
    top1: float
    error: float
    madds: int
    ms: float
    q1: float
    q3: float
    engine: str


def standard_error(top1: float, images: int) -> float:
    """Of a percentage of images: 100 sqrt(p (1 - p) / N), in points."""
    share = top1 / 100
    return 100 * float((share * (1 - share) / images) ** 0.5)


def points(
    top1: Mapping[str, Mapping[int, float]],
    madds: Mapping[str, Mapping[int, int]],
    times: Mapping[str, Latency],
    images: int,
) -> list[Point]:
    """A point per run and size, the largest size first."""
    found = []
    for run, by_size in top1.items():
        for size in sorted(by_size, reverse=True):
            ms = times[run].times[size]
            found.append(
                Point(
                    run,
                    size,
                    by_size[size],
                    standard_error(by_size[size], images),
                    madds[run][size],
                    ms.median,
                    ms.q1,
                    ms.q3,
                    times[run].engine,
                )
            )
    return found


def section(
    found: Sequence[Point], what: Mapping[str, str], times: Mapping[str, Latency], cpu: str
) -> Section:
    """Both pictures and a table.

    Args:
        what: run -> its network, in a few words.
        cpu: the processor that was timed.
    """
    with drawn(height=3.4, columns=2) as (figure, grid):
        panels = (
            (grid[0, 0], lambda p: p.madds / 1e6, "multiply-adds per image, millions"),
            (grid[0, 1], lambda p: p.ms, "time per image, ms (one thread)"),
        )
        for axes, cost, label in panels:
            for index, run in enumerate(what):
                own = [p for p in found if p.run == run]
                axes.errorbar(
                    [cost(p) for p in own],
                    [p.top1 for p in own],
                    yerr=[p.error for p in own],
                    label=run,
                    capsize=2,
                    elinewidth=0.8,
                    **style(index),
                )
                if len(what) <= 2:
                    for p in own:
                        axes.annotate(
                            str(p.size),
                            (cost(p), p.top1),
                            xytext=(5, -9),
                            textcoords="offset points",
                            fontsize=7,
                        )
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
            costs = [cost(p) for p in found]
            if max(costs) > FAR_APART * min(costs):  # of different engines, most often
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter("")
            else:
                axes.set_xlim(left=0)
        grid[0, 0].set_ylabel("top-1, %")
        grid[0, 1].legend(loc="best")
        says = "Top-1 accuracy over multiply-adds, and over milliseconds; a curve per run."
        picture = Picture("front", png(figure), says)
    rows = [
        [
            p.run,
            what[p.run],
            str(p.size),
            f"{p.top1:.1f} ± {p.error:.1f}",
            f"{p.madds / 1e6:.1f}",
            f"{p.ms:.2f} ({p.q1:.2f}–{p.q3:.2f})",
            p.engine,
        ]
        for p in found
    ]
    headings = ("run", "network", "size", "top-1, %", "MAdds, M", "ms (quartiles)", "engine")
    text = [
        "Each point is a run at a size it was trained at. ± is the standard error of the share of "
        "images. Runs on the same images differ more reliably than that tells.",
        f"Times are medians for one image on one thread of {cpu}, all networks and sizes in turn; "
        "on a machine that does other work at the same time they are too long and vary. "
        "Engine “packed” is rsquant's own kernels on the packed file, “torch” PyTorch in float32 "
        "with BatchNorms folded.",
        *(
            f"{run} was timed by PyTorch: {one.why}."
            for run, one in times.items()
            if one.why not in ("", "float32")
        ),
    ]
    figures: dict[str, Any] = {"points": [vars(p) for p in found], "cpu": cpu}
    return Section(
        "front", "Accuracy and cost", text, figures, (picture,), (Table(headings, rows),)
    )
