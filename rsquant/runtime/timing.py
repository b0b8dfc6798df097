"""How long the steps of a bound program take, and which kernel is fastest for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsquant.runtime.bind import bind, prepare
from rsquant.runtime.program import ConvStep, Program
from rsquant.runtime.tuning import Choices

_ROUNDS = 10  # two runs of each kernel in each; the fastest counts


def step_seconds(program: Program, bound: Any, repeats: int) -> list[float]:
    """Shortest time of each step over some runs of one image of zeros, the image's copy first."""
    image = np.zeros((1, 3, program.height, program.width), np.uint8)
    logits = np.empty((1, program.values[program.logits].channels), np.float32)
    times = []
    for _ in range(repeats):
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
    # In turn, so that what else the machine does falls on all alike.
    fastest = {name: np.full(len(program.steps), np.inf) for name in names}
    for _ in range(_ROUNDS):
        for name in names:
            times = step_seconds(program, bound[name], 2)[1:]
            fastest[name] = np.minimum(fastest[name], times)
    return {
        where: min(eligible, key=lambda name: float(fastest[name][number]))
        for number, (where, eligible) in unknown.items()
    }
