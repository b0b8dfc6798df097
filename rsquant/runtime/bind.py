"""A program bound to the compiled kernels: tables turned into what the kernels compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.kernels.backends import native
from rsquant.runtime.program import (
    AvgPoolStep,
    ConvStep,
    Epilogue,
    LinearStep,
    MapStep,
    MaxPoolStep,
    Program,
)

# Names the kernel of a convolution, by the number of its step.
Choose = Callable[[int, ConvStep], str]
Weights = dict[tuple[str, str], Any]


def geometry(step: ConvStep) -> list[int]:
    """What a kernel's eligibility depends on besides the size; see bindings.cpp."""
    bits = 0 if step.planes is None else len(step.planes)
    basis = [*step.input_basis, 0, 0, 0, 0][:4]
    return [
        step.groups,
        step.in_channels,
        step.out_channels,
        *step.kernel,
        *step.stride,
        *step.padding[:2],
        *step.dilation,
        step.input_limit,
        step.weight_limit,
        int(step.inverse_step is not None),
        bits,
        len(step.input_basis),
        *basis,
    ]


def source_of(step: ConvStep) -> Any:
    """The step's weights as the kernels take them; views of the file."""
    if step.image_weight is not None:
        return native().words(step.image_weight)
    return native().planes(step.planes, step.basis, step.offset)


def prepare(isa: str, kernel: str, step: ConvStep) -> Any:
    """The step's weights in a kernel's own layout. Runs without the GIL."""
    pixel_bytes = -(-step.in_channels // 4) * 4
    return native().prepare(isa, kernel, geometry(step), pixel_bytes, source_of(step))


def bind(isa: str, workspace: Any, program: Program, choose: Choose, weights: Weights) -> Any:
    """A compiled program.

    Args:
        isa: a usable instruction set.
        workspace: threads and memory to run in.
        choose: names each convolution's kernel.
        weights: prepared weights by step name and kernel; a convolution that has none prepares
            each block of them when it needs it.
    """
    bound = native().Program(isa, workspace)
    for value in program.values:
        bound.value(value.kind, value.channels, value.height, value.width, value.fill)
    for number, step in enumerate(program.steps):
        if isinstance(step, ConvStep):
            kernel = choose(number, step)
            prepared = weights.get((step.name, kernel))
            bound.conv(
                kernel,
                geometry(step),
                step.inverse_step or 0.0,
                step.input,
                prepared,
                source_of(step),
                _tables(step.epilogue, step.out_channels, step.correction),
            )
        elif isinstance(step, MapStep):
            bound.map(step.input, _tables(step.epilogue, step.channels))
        elif isinstance(step, MaxPoolStep):
            window = [*step.kernel, *step.stride, *step.padding[:2]]
            bound.max_pool(step.input, step.output, window)
        elif isinstance(step, AvgPoolStep):
            low = 0.0 if step.relu else -np.inf
            bound.average_pool(step.input, step.output, step.scale, step.shift, low, step.clip)
        else:
            _linear(bound, step)
    bound.finish()
    return bound


def _linear(bound: Any, step: LinearStep) -> None:
    limit = reference.linear_limit(step.weight.shape[1])
    bound.linear(step.input, step.output, limit, step.weight, step.scale, step.bias)


def _tables(e: Epilogue, channels: int, correction: NDArray[np.int32] | None = None) -> Any:
    """The epilogue as the kernels compare it: "x > threshold" only, see epilogue.h.

    Where `sign` is -1,  -x > t  is  not (x > t')  with t' the largest number below -t; the level
    is then the top one minus the steps passed.
    """
    correction = np.zeros(channels, np.int32) if correction is None else correction
    levels = e.levels.astype(np.int32)
    falling = e.sign < 0
    if e.integer:
        flipped = np.where(falling, -1 - e.thresholds.astype(np.int64), e.thresholds)
        bounds = np.iinfo(np.int32)
        thresholds: NDArray[Any] = np.clip(flipped + correction, bounds.min, bounds.max)
        thresholds = thresholds.astype(np.int32)
    else:
        with np.errstate(over="ignore"):  # below the lowest number is minus infinity
            below = np.nextafter(-e.thresholds, np.float32(-np.inf))
        thresholds = np.where(falling, below, e.thresholds).astype(np.float32)
    if e.codes is None:
        thresholds = np.empty((0, channels), np.float32)
        base, sign = np.zeros(channels, np.int32), np.ones(channels, np.int32)
    else:
        base = np.where(falling, levels[-1], levels[0]).astype(np.int32)
        sign = e.sign.astype(np.int32)
    return native().Tables(
        correction=correction,
        scale=e.scale,
        shift=e.shift,
        threshold=np.ascontiguousarray(thresholds),
        step=np.diff(levels),
        base=base,
        sign=sign,
        integer=e.integer and e.codes is not None,
        low=0.0 if e.relu else -np.inf,
        high=e.clip,
        add=_id(e.add),
        keep=_id(e.keep),
        codes=_id(e.codes),
    )


def _id(value: int | None) -> int:
    return -1 if value is None else value
