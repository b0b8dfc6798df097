"""A program bound to the compiled kernels: values, steps, and where the values are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsquant.kernels.backends import native
from rsquant.packed.program import Program
from rsquant.runtime import memory
from rsquant.runtime.cpu.steps import Steps
from rsquant.runtime.cpu.weights import KernelWeights

_ALIGN = 64  # bytes: a vector, and a line of the caches


def bind(isa: str, workspace: Any, program: Program, weights: Mapping[int, KernelWeights]) -> Any:
    """A compiled program.

    Args:
        isa: a usable instruction set.
        workspace: threads and memory to run in.
        weights: of each convolution, by the number of its step.
    """
    steps = Steps(native().Program(isa, workspace), weights)
    for value in program.values:
        steps.program.value(
            kind=value.kind,
            channels=value.channels,
            height=value.height,
            width=value.width,
            fill=value.fill,
        )
    for number, step in enumerate(program.steps):
        steps.number = number
        step.bind_cpu(steps)
    # Known now: convolutions ask for borders around what they read.
    sizes = steps.program.value_sizes()
    plan = memory.plan(memory.lifetimes(program, sizes), _ALIGN)
    steps.program.finish(offsets=plan.offsets, total=plan.total)
    return steps.program
