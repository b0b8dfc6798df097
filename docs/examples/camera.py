"""A camera loop within a budget, on a machine that gets busy half-way.

    python docs/examples/camera.py MODEL.rsq PHOTOS --budget-ms 30 --seconds 60 --out camera.png

Photographs stand for the frames of a camera: PHOTOS has a folder for each class. After half of the
time another process begins to compute, on the same core as this one or on another. Drawn are each
call's time, the size that was chosen and how often it was right; printed is how many calls were
within the budget, and what every size alone would have done under the same load. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsquant import runtime
from rsquant.decoding import EXTENSIONS, decode
from rsquant.serve import Predictor

# Calls that a budget may take to find the new load.
ADAPTING = 10
MOST_PHOTOS = 2000


@dataclass(frozen=True)
class Call:
    """A frame.

    Attributes:
        at: seconds since the loop began. seconds: from pixels to the label.
        loaded: whether the other process was running.
    """

    at: float
    seconds: float
    size: int
    right: bool
    loaded: bool


@dataclass(frozen=True)
class Summary:
    """Calls of one way to choose a size.

    Attributes:
        within: share of all calls within the budget but for the first ten after a change.
        within_loaded: the same of the calls beside the other process.
        top1: share that was right, of all calls.
    """

    way: str
    calls: int
    within: float
    within_loaded: float
    top1: float
    median_ms: float
    median_loaded_ms: float


def photographs(folder: Path, classes: tuple[str, ...]) -> list[tuple[NDArray[np.uint8], str]]:
    """Pixels and class of some photographs of every class, in a random order."""
    files = [p for name in classes for p in (folder / name).glob("*") if p.suffix in EXTENSIONS]
    if not files:
        names = ", ".join(classes[:3]) or "which it has no names of"
        raise SystemExit(f"{folder}: has no folders with the model's classes, {names}")
    np.random.default_rng(0).shuffle(files)
    return [(decode(path), path.parent.name) for path in files[:MOST_PHOTOS]]


# A process that only computes, and one that does so half of the time, in tenths of a millisecond.
# Of real-time processes (chrt) the second must have the higher priority.
ALWAYS = """
print(flush=True)
while True:
    pass
"""
HALF = """
priority = os.sched_getparam(0).sched_priority
if priority:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority + 1))
print(flush=True)
start = time.perf_counter()
while True:
    while time.perf_counter() < start + 1e-4:
        pass
    start = max(start + 2e-4, time.perf_counter())
    time.sleep(max(0.0, start - time.perf_counter()))
"""


@contextmanager
def busy(core: int | None, work: str = ALWAYS) -> Iterator[None]:
    """A process beside this one, on one core, inside the block; None: no process."""
    if core is None:
        yield
        return
    code = f"import os, time\nos.sched_setaffinity(0, {{{core}}})\n{work}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it computes from here on
            yield
        finally:
            process.kill()


def loop(
    predictor: Predictor,
    frames: list[tuple[NDArray[np.uint8], str]],
    seconds: float,
    core: int | None,
    size: int | None = None,
    rounds: int | None = None,
    work: str = ALWAYS,
) -> list[Call]:
    """Call for so many seconds, the second half beside a process on `core`; at one size, or as the
    predictor's budget chooses. With `rounds`, each half has every frame so many times instead."""
    calls: list[Call] = []
    start = time.perf_counter()
    for loaded in (False, True):
        with busy(core if loaded else None, work):
            end, first = time.perf_counter() + seconds / 2, len(calls)
            while (
                len(calls) - first < rounds * len(frames)
                if rounds
                else time.perf_counter() < end or len(calls) - first <= ADAPTING
            ):
                pixels, name = frames[len(calls) % len(frames)]
                before = time.perf_counter()
                said = predictor(pixels, size)
                took = time.perf_counter() - before
                calls.append(
                    Call(before - start, took, said.resolution, said.label == name, loaded)
                )
    return calls


def summary(way: str, calls: list[Call], budget: float) -> Summary:
    """Shares and medians of some calls; `budget` in seconds."""
    parts = {loaded: [c for c in calls if c.loaded == loaded] for loaded in (False, True)}
    counted = {loaded: of[ADAPTING:] for loaded, of in parts.items()}
    met = {loaded: [c.seconds <= budget for c in of] for loaded, of in counted.items()}
    median = {
        loaded: 1e3 * float(np.median([c.seconds for c in of])) for loaded, of in parts.items()
    }
    return Summary(
        way,
        len(calls),
        float(np.mean(met[False] + met[True])),
        float(np.mean(met[True])),
        float(np.mean([c.right for c in calls])),
        median[False],
        median[True],
    )


def overhead(predictor: Predictor, count: int = 2000) -> float:
    """Seconds of a choice and its bookkeeping."""
    budget = predictor.budget
    assert budget is not None
    start = time.perf_counter()
    for _ in range(count):
        choice = budget.choose()
        budget.tell(choice.size, choice.predicted)
    return (time.perf_counter() - start) / count


def draw(path: Path, calls: list[Call], budget: float, title: str) -> None:
    """Time, size and accuracy of each call over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    at = np.array([call.at for call in calls])
    times = np.array([1e3 * call.seconds for call in calls])
    sizes = np.array([call.size for call in calls])
    figure, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 7), sharex=True)
    # A few calls take ten times as long as others: they would press all others flat.
    most = 1.1 * max(1e3 * budget, float(np.percentile(times, 98)))
    beyond = times > most
    top.plot(at[~beyond], times[~beyond], ".", markersize=2)
    if beyond.any():
        label = f"{beyond.sum()} of {len(calls)} calls beyond, up to {times.max():.0f} ms"
        top.plot(at[beyond], np.full(beyond.sum(), most), "^", color="tab:orange", label=label)
    top.axhline(1e3 * budget, color="tab:red", linewidth=1, label=f"budget, {1e3 * budget:g} ms")
    top.set_ylim(0, 1.3 * most)
    top.set_ylabel("ms a frame")
    top.legend(loc="upper left", ncols=2)
    middle.plot(at, sizes, ".", markersize=2)
    middle.set_yticks(np.unique(sizes))
    middle.set_ylabel("size (pixels)")
    width = max(1, min(200, len(calls) // 5))
    right = np.convolve([call.right for call in calls], np.ones(width) / width, "valid")
    bottom.plot(at[width - 1 :], 100 * right)
    bottom.set_ylabel(f"top-1 (%), last {width}")
    bottom.set_xlabel("seconds")
    bottom.set_xlim(0, at[-1])
    began = next((call.at for call in calls if call.loaded), None)
    for axis in (top, middle, bottom):
        if began is not None:
            axis.axvspan(began, at[-1], color="0.92", zorder=0)
    top.set_title(f"{title} (grey: beside another process)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> list[Summary]:
    """Run the loop, and every size alone; print, draw and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--budget-ms", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each way, 60 by default")
    parser.add_argument(
        "--rounds", type=int, help="in place of --seconds: each half has all photographs so often"
    )
    parser.add_argument(
        "--busy",
        choices=("other", "same", "half"),
        default="other",
        help="which core; half: half of the time of the same",
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-fixed", action="store_true", help="leave out every size alone")
    parser.add_argument("--out", type=Path, default=None, help="a picture")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if given.busy == "other" else cores[0]
    work = HALF if given.busy == "half" else ALWAYS
    if given.busy != "other":
        os.sched_setaffinity(0, {core})
    try:
        network = runtime.load(given.model, given.threads)
        predictor = Predictor(network, budget_ms=given.budget_ms)
        frames = photographs(given.photos, predictor.classes)
        calls = loop(predictor, frames, given.seconds, core, None, given.rounds, work)
        budget = given.budget_ms / 1e3
        found = [summary("budget", calls, budget)]
        for size in () if given.no_fixed else predictor.resolutions:
            fixed = loop(predictor, frames, given.seconds, core, size, given.rounds, work)
            found.append(summary(str(size), fixed, budget))
    finally:
        os.sched_setaffinity(0, set(cores))
    print(f"{'size':>8} {'calls':>6} {'within':>8} {'busy':>8} {'top-1':>7}  ms, idle and busy")
    for row in found:
        print(
            f"{row.way:>8} {row.calls:6d} {row.within:8.1%} {row.within_loaded:8.1%} "
            f"{row.top1:7.1%}  {row.median_ms:.1f} {row.median_loaded_ms:.1f}"
        )
    print(f"choosing takes {1e6 * overhead(predictor):.1f} us a call")
    if given.out is not None:
        draw(given.out, calls, budget, given.model.name)
    if given.json is not None:
        content = {"ways": [asdict(row) for row in found], "calls": [asdict(c) for c in calls]}
        given.json.write_text(json.dumps(content))
    return found


if __name__ == "__main__":
    main()
