"""How long the steps of a bound program take, and which kernel is fastest for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.program import Program
from rsquant.runtime.cpu.bind import bind
from rsquant.runtime.cpu.weights import PreparedWeights

_ROUNDS = 10  # a run of each kernel in each; the fastest counts
_HOPELESS = 1.5  # times the fastest, after two rounds: not timed again
_CACHES = 48 * 2**20  # bytes that push everything else out of the caches


class Budget:
    """Some seconds of this thread's processor time, and at most twice as many by the clock.

    On a busy machine a thread runs a part of the time only: kernels are chosen as well there.
    """

    def __init__(self, seconds: float) -> None:
        self._processor = time.thread_time() + seconds
        self._clock = time.monotonic() + 2 * seconds

    def left(self) -> float:
        return min(self._processor - time.thread_time(), self._clock - time.monotonic())


def step_times(
    program: Program, bound: Any, repeats: int, between: Callable[[], object] = lambda: None
) -> NDArray[np.float64]:
    """Seconds of each step in some runs of one image of zeros, (repeats, 1 + steps).

    The first step of the compiled program copies the image.

    Args:
        between: called before each run.
    """
    image = np.zeros((1, 3, program.height, program.width), np.uint8)
    logits = np.empty((1, math.prod(program.output)), np.float32)
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
    unknown: Mapping[int, tuple[str, ...]],
    alike: Mapping[int, str],
    kernels: Mapping[int, str],
    seconds: float,
) -> dict[int, str]:
    """Time eligible kernels of some convolutions in their place in the program.

    Each run counts twice: with weights that come from memory, as where other work is done between
    two images, and with those that an image just before has left in the caches, as in a stream of
    them. A kernel that keeps eight times their bytes must not win by a loop of nothing else, nor
    one that computes slowly by weights that are seldom far.

    A network has most of its convolutions several times: what is timed of one is of all like it.

    The first run has every convolution's first kernel, and says which convolutions take the time.
    The others follow, those first that the largest share of it can use, until the time is up.

    Args:
        unknown: number of the step -> eligible kernels, the default first.
        alike: number of the step -> the same for convolutions that take the same time.
        kernels: number of the step -> kernel, of all convolutions; those not in `unknown` keep it.
        seconds: what this may take, but for the run that is under way.
    Returns:
        number of the step -> fastest kernel, where two or more were timed.
    """
    budget = Budget(seconds)
    other = np.zeros(_CACHES, np.uint8)

    def evict() -> None:
        np.add(other, 1, out=other)

    def timed(bound: Any) -> NDArray[np.float64]:
        far, near = step_seconds(program, bound, 1, evict), step_seconds(program, bound, 1)
        return np.array(far[1:]) + np.array(near[1:])

    def bound_with(name: str | None) -> Any:
        """The program with a kernel wherever it can be; with None the default ones."""
        chosen = dict(kernels)
        for number, eligible in unknown.items():
            chosen[number] = name if name in eligible else eligible[0]
        with PreparedWeights(isa).of(program, chosen) as weights:
            return bind(isa, workspace, program, weights)

    shortest: dict[str, dict[str, float]] = {alike[number]: {} for number in unknown}

    def note(name: str | None, times: NDArray[np.float64]) -> None:
        for number, eligible in unknown.items():
            used = name if name in eligible else eligible[0]
            of = shortest[alike[number]]
            of[used] = min(of.get(used, np.inf), float(times[number]))

    default = timed(bound_with(None))
    note(None, default)
    share: dict[str, float] = {}
    for number, eligible in unknown.items():
        for name in eligible:
            share[name] = share.get(name, 0.0) + float(default[number])
    names = sorted(share, key=lambda name: -share[name])
    lasts = dict.fromkeys(names, float(default.sum()))
    bound: dict[str, Any] = {}
    # In turn, so that what else the machine does falls on all alike.
    for done in range(_ROUNDS):
        for name in names:
            if lasts[name] > budget.left():
                continue
            if name not in bound:
                bound[name] = bound_with(name)
            times = timed(bound[name])
            lasts[name] = float(times.sum())
            note(name, times)
        if done == 1:
            names = [name for name in names if _is_near(name, shortest)]
    fastest = {of: min(times, key=lambda name: times[name]) for of, times in shortest.items()}
    return {n: fastest[alike[n]] for n in unknown if len(shortest[alike[n]]) > 1}


def _is_near(name: str, shortest: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a kernel may yet turn out to be the fastest of some convolution."""
    return any(
        times.get(name, np.inf) <= _HOPELESS * min(times.values()) for times in shortest.values()
    )
