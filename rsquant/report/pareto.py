"""Which settings of a file are worth their cost: the Pareto front of accuracy and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rsquant.report.latency import Latency

# The front of runs that have one setting at one size: each is a point, and together they are what
# one would train instead of one network of many settings.
SINGLE = "runs of one size"


@dataclass(frozen=True)
class Point:
    """A run, at one of its widths and pairs of bits, at a size it was trained at.

    Attributes:
        file: the run without its width and bits: all settings of it are one packed file.
        error: standard error of top1, in points: of N images drawn from many.
        madds: multiply-adds for one image.
        ms, q1, q3: median and quartiles of milliseconds for one image.
    """

    run: str
    file: str
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
    files: Mapping[str, str],
    top1: Mapping[str, Mapping[int, float]],
    madds: Mapping[str, Mapping[int, int]],
    times: Mapping[str, Latency],
    images: int,
) -> list[Point]:
    """A point per run and size, the largest size first.

    Args:
        files: run -> file.
    """
    found = []
    for run, by_size in top1.items():
        for size in sorted(by_size, reverse=True):
            accuracy, ms = by_size[size], times[run].times[size]
            error = standard_error(accuracy, images)
            found.append(
                Point(
                    run,
                    files[run],
                    size,
                    accuracy,
                    error,
                    madds[run][size],
                    ms.median,
                    ms.q1,
                    ms.q3,
                    times[run].engine,
                )
            )
    return found


def groups(found: Sequence[Point]) -> dict[str, list[Point]]:
    """What has a front: each file, and `SINGLE` for all of a single setting and size together."""
    files: dict[str, list[Point]] = {}
    for point in found:
        files.setdefault(point.file, []).append(point)
    singles = [own[0] for own in files.values() if len(own) == 1]
    if len(singles) > 1:
        files = {file: own for file, own in files.items() if len(own) > 1} | {SINGLE: singles}
    return files


def front(found: Sequence[Point], cost: Callable[[Point], float]) -> list[Point]:
    """The points than which no other is both as cheap and as accurate, the cheapest first.

    Of equal points it is the first.
    """
    best: list[Point] = []
    for point in sorted(found, key=lambda p: (cost(p), -p.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best
