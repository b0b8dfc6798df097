"""How long the steps of a bound program take, and which kernel is fastest for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program
from rsquant.runtime.bind import bind, prepare
from rsquant.runtime.tuning import Choices

_ROUNDS = 6  # a run of each kernel in each; the fastest counts
_HOPELESS = 1.5  # times the fastest, after two rounds: not timed again
_CACHES = 48 * 2**20  # bytes that push everything else out of the caches


def step_times(
    program: Program, bound: Any, repeats: int, between: Callable[[], object] = lambda: None
) -> NDArray[np.float64]:
    """Seconds of each step in some runs of one image of zeros, (repeats, 1 + steps).

    The first step of the compiled program copies the image.

    Args:
        between: called before each run.
    """
    image = np.zeros((1, 3, program.height, program.width), np.uint8)
    logits = np.empty((1, program.values[program.logits].channels), np.float32)
    times = np.zeros((repeats, bound.steps))
    for seconds in times:
        between()
        bound.run(image, program.logits, logits, seconds)
    return times


def step_seconds(
    program: Program, bound: Any, repeats: int, between: Callable[[], object] = lambda: None
) -> list[float]:
    """Shortest time of each step over some runs, see `step_times`."""
    fastest: list[float] = step_times(program, bound, repeats, between).min(axis=0).tolist()
    return fastest


def fastest_kernels(
    isa: str,
    workspace: Any,
    program: Program,
    unknown: Mapping[int, tuple[str, list[str]]],
    known: Callable[[Program, ConvStep], str],
    seconds: float,
) -> Choices:
    """Time eligible kernels of some convolutions in their place in the program.

    Weights come from memory, as where other work is done between two images: a kernel that keeps
    eight times their bytes must not win by what a loop of nothing else leaves in the caches.

    The first run has every convolution's first kernel, and says which convolutions take the time.
    The others follow, those first that the largest share of it can use, until the time is up.

    Args:
        unknown: number of the step -> name of the choice, eligible kernels, the default first.
        known: names the kernel of every other convolution.
        seconds: what this may take, but for the run that is under way.
    Returns:
        name of the choice -> fastest kernel, of the convolutions that two or more were timed for.
    """
    end = time.monotonic() + seconds
    other = np.zeros(_CACHES, np.uint8)

    def evict() -> None:
        np.add(other, 1, out=other)

    def timed(bound: Any) -> NDArray[np.float64]:
        return np.array(step_seconds(program, bound, 1, evict)[1:])

    def bound_with(name: str | None) -> Any:
        """The program with a kernel wherever it can be; with None the default ones."""

        def choose(number: int, step: ConvStep) -> str:
            if number not in unknown:
                return known(program, step)
            eligible = unknown[number][1]
            return name if name in eligible else eligible[0]

        steps = [
            (step, choose(number, step))
            for number, step in enumerate(program.steps)
            if isinstance(step, ConvStep)
        ]
        return bind(isa, workspace, program, choose, prepare(isa, steps))

    # A network has most of its convolutions several times: what is timed of one is of all.
    shortest: dict[str, dict[str, float]] = {where: {} for where, _ in unknown.values()}
    share: dict[str, float] = {}

    def note(name: str | None, times: NDArray[np.float64]) -> None:
        for number, (where, eligible) in unknown.items():
            used = name if name in eligible else eligible[0]
            before = shortest[where].get(used, np.inf)
            shortest[where][used] = min(before, float(times[number]))

    default = timed(bound_with(None))
    note(None, default)
    for number, (_, eligible) in unknown.items():
        for name in eligible:
            share[name] = share.get(name, 0.0) + float(default[number])
    names = sorted(share, key=lambda name: -share[name])
    lasts = dict.fromkeys(names, float(default.sum()))
    bound: dict[str, Any] = {}
    # In turn, so that what else the machine does falls on all alike.
    for done in range(_ROUNDS):
        for name in names:
            if time.monotonic() + lasts[name] > end:
                continue
            if name not in bound:
                bound[name] = bound_with(name)
            times = timed(bound[name])
            lasts[name] = float(times.sum())
            note(name, times)
        if done == 1:
            names = [name for name in names if _is_near(name, shortest)]
    return {
        where: min(times, key=lambda name: times[name])
        for where, times in shortest.items()
        if len(times) > 1
    }


def _is_near(name: str, shortest: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a kernel may yet turn out to be the fastest of some convolution."""
    return any(
        times.get(name, np.inf) <= _HOPELESS * min(times.values()) for times in shortest.values()
    )
