"""Accuracy against cost: multiply-adds and measured milliseconds (RS-Nets, figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rsquant.report.latency import Latency
from rsquant.report.pareto import SINGLE, Point, front, groups
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table

# Costs of which the largest is so many times the smallest are drawn on a logarithmic axis.
FAR_APART = 20
Cost = Callable[[Point], float]


def madds_millions(point: Point) -> float:
    return point.madds / 1e6


def milliseconds(point: Point) -> float:
    return point.ms


def section(
    found: Sequence[Point], what: Mapping[str, str], times: Mapping[str, Latency], cpu: str
) -> Section:
    """Both pictures and a table.

    Args:
        what: run -> its network, in a few words.
        cpu: the processor that was timed.
    """
    best = _best(found, milliseconds)
    figures: dict[str, Any] = {
        "points": [vars(p) | {"front": p in best} for p in found],
        "cpu": cpu,
    }
    return Section(
        "front",
        "Accuracy and cost",
        list(_text(found, times, cpu)),
        figures,
        (_picture(found),),
        (_table(found, what, best),),
    )


def _picture(found: Sequence[Point]) -> Picture:
    """A curve per run, labelled with its sizes, over the fronts of files of several settings."""
    runs = list(dict.fromkeys(p.run for p in found))
    rows = (len(runs) + len(_fronts(found)) + 2) // 3
    with drawn(height=3.3 + 0.2 * rows, columns=2) as (figure, grid):
        _panel(grid[0, 0], found, runs, madds_millions)
        grid[0, 0].set_xlabel("multiply-adds per image, millions")
        grid[0, 0].set_ylabel("top-1, %")
        _panel(grid[0, 1], found, runs, milliseconds)
        grid[0, 1].set_xlabel("time per image, ms (one thread)")
        lines = grid[0, 1].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=3)
        says = (
            "Top-1 accuracy over multiply-adds, and over milliseconds; a curve per run, labelled "
            "with image sizes."
        )
        return Picture("front", png(figure), says)


def _panel(axes: Any, found: Sequence[Point], runs: Sequence[str], cost: Cost) -> None:
    from matplotlib.patheffects import withStroke

    halo = withStroke(linewidth=1.5, foreground="white")
    costs = [cost(p) for p in found]
    for label, own in _fronts(found).items():
        steps = front(own, cost)
        colour = style(runs.index(own[0].run))["color"]
        # Its last accuracy is to be had for any higher cost, too.
        axes.step(
            [*map(cost, steps), max(costs)],
            [*(p.top1 for p in steps), steps[-1].top1],
            where="post",
            color=colour,
            alpha=0.25,
            linewidth=5,
            label=f"front of {label}",
        )
    for index, run in enumerate(runs):
        own = [p for p in found if p.run == run]
        at, top1 = [cost(p) for p in own], [p.top1 for p in own]
        look = style(index)
        error = [p.error for p in own]
        axes.errorbar(at, top1, error, fmt="none", ecolor=look["color"], elinewidth=0.6, alpha=0.4)
        axes.plot(at, top1, label=run, **look)
    best = _best(found, cost)
    for point in _labelled(found, cost):
        # Above the front, and below what is under it.
        above = point in best
        axes.annotate(
            str(point.size),
            (cost(point), point.top1),
            xytext=(-3, 3) if above else (4, -2),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            fontsize=7,
            color=style(runs.index(point.run))["color"],
            path_effects=[halo],
        )
    axes.grid(alpha=0.3)
    if max(costs) > FAR_APART * min(costs):  # of different engines, most often
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(left=0)


def _fronts(found: Sequence[Point]) -> dict[str, list[Point]]:
    """The groups whose front is of more than one run, and so is not a curve by itself."""
    return {
        label: own for label, own in groups(found).items() if len({point.run for point in own}) > 1
    }


def _best(found: Sequence[Point], cost: Cost) -> list[Point]:
    """The points on the fronts of their groups."""
    return [point for own in groups(found).values() for point in front(own, cost)]


def _labelled(found: Sequence[Point], cost: Cost) -> Iterator[Point]:
    """The points to write the size at: of those of a size at the same cost the highest."""
    highest: dict[tuple[int, float], Point] = {}
    for point in found:
        place = (point.size, cost(point))
        if place not in highest or point.top1 > highest[place].top1:
            highest[place] = point
    yield from highest.values()


def _table(found: Sequence[Point], what: Mapping[str, str], best: Sequence[Point]) -> Table:
    rows = [
        [
            p.run,
            what[p.run],
            str(p.size),
            f"{p.top1:.1f} ± {p.error:.1f}",
            f"{p.madds / 1e6:.1f}",
            f"{_three(p.ms)} ({_three(p.q1)}–{_three(p.q3)})",
            "yes" if p in best else "",
            p.engine,
        ]
        for p in found
    ]
    headings = (
        "run",
        "network",
        "size",
        "top-1, %",
        "MAdds, M",
        "ms (quartiles)",
        "on the front",
        "engine",
    )
    return Table(headings, rows)


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _text(found: Sequence[Point], times: Mapping[str, Latency], cpu: str) -> Iterator[str]:
    yield (
        "Each point is a run at a size it was trained at. ± is the standard error of the share of "
        "images. Runs on the same images differ more reliably than that tells."
    )
    yield (
        "On the front are the points of a run than which none of the same run, at any size, width "
        f"or bits, is both as fast and as accurate; {SINGLE} have a front together."
    )
    yield (
        f"Times are medians for one image on one thread of {cpu}, all networks and sizes in turn; "
        "on a machine that does other work at the same time they are too long and vary. "
        "Engine “packed” is rsquant's own kernels on the packed file, “torch” PyTorch in float32 "
        "with BatchNorms folded."
    )
    for run, one in times.items():
        if one.why not in ("", "float32"):
            yield f"{run} was timed by PyTorch: {one.why}."
