"""How long the steps of a bound program take, and which kernel is fastest for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsquant.runtime.bind import bind, prepare
from rsquant.runtime.program import ConvStep, Program
from rsquant.runtime.tuning import Choices

_ROUNDS = 10  # a run of each kernel in each; the fastest counts
_CACHES = 48 * 2**20  # bytes that push everything else out of the caches


def step_seconds(
    program: Program, bound: Any, repeats: int, between: Callable[[], object] = lambda: None
) -> list[float]:
    """Shortest time of each step over some runs of one image of zeros, the image's copy first.

    Args:
        between: called before each run.
    """
    image = np.zeros((1, 3, program.height, program.width), np.uint8)
    logits = np.empty((1, program.values[program.logits].channels), np.float32)
    times = []
    for _ in range(repeats):
        between()
        seconds = np.zeros(bound.steps)
        bound.run(image, program.logits, logits, seconds)
        times.append(seconds)
    fastest: list[float] = np.min(times, axis=0).tolist()
    return fastest


def fastest_kernels(
    isa: str, workspace: Any, program: Program, unknown: Mapping[int, tuple[str, list[str]]],
    known: Callable[[Program, ConvStep], str],
) -> Choices:  # fmt: skip
    """Time every eligible kernel of some convolutions in its place in the program.

    Weights come from memory, as where other work is done between two images: a kernel that keeps
    eight times their bytes must not win by what a loop of nothing else leaves in the caches.

    Args:
        unknown: number of the step -> name of the choice, eligible kernels.
        known: names the kernel of every other convolution.
    Returns:
        name of the choice -> fastest kernel.
    """
    names = sorted({name for _, eligible in unknown.values() for name in eligible})
    bound = {}
    for name in names:

        def choose(number: int, step: ConvStep, name: str = name) -> str:
            if number in unknown and name in unknown[number][1]:
                return name
            return known(program, step)

        weights = {
            (step.name, choose(number, step)): prepare(isa, choose(number, step), step)
            for number, step in enumerate(program.steps)
            if isinstance(step, ConvStep)
        }
        bound[name] = bind(isa, workspace, program, choose, weights)
    other = np.zeros(_CACHES, np.uint8)

    def evict() -> None:
        np.add(other, 1, out=other)

    # In turn, so that what else the machine does falls on all alike.
    fastest = {name: np.full(len(program.steps), np.inf) for name in names}
    for _ in range(_ROUNDS):
        for name in names:
            times = step_seconds(program, bound[name], 1, evict)[1:]
            fastest[name] = np.minimum(fastest[name], times)
    return {
        where: min(eligible, key=lambda name: float(fastest[name][number]))
        for number, (where, eligible) in unknown.items()
    }
