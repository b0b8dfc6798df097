"""A program bound to the compiled kernels: tables turned into what the kernels compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels.backends import native
from rsquant.packed.ops.conv import ConvForm, ConvStep
from rsquant.packed.ops.epilogue import Epilogue
from rsquant.packed.program import Program

# Names the kernel of a convolution, by the number of its step.
Choose = Callable[[int, ConvStep], str]
Weights = dict[tuple[str, str], Any]


def eligible_kernels(isa: str, form: ConvForm) -> list[str]:
    """The kernels that compute a convolution exactly, the one to use untimed first."""
    kernels: list[str] = native().conv_kernels(isa, _native_form(form))
    return kernels


def prepare(isa: str, steps: Sequence[tuple[ConvStep, str]], threads: int = 1) -> Weights:
    """Weights of some steps, each in its kernel's own layout. Runs without the GIL.

    Args:
        steps: with the names of their kernels; none twice.
    """
    requests = [
        native().Request(
            kernel=kernel,
            form=_native_form(step.form),
            pixel_bytes=-(-step.in_channels // 4) * 4,
            source=source_of(step),
        )
        for step, kernel in steps
    ]
    if not requests:
        return {}
    made = native().prepare(isa=isa, requests=requests, threads=threads)
    return {(step.name, kernel): one for (step, kernel), one in zip(steps, made, strict=True)}


def source_of(step: ConvStep) -> Any:
    """The step's weights as the kernels take them; views of the file."""
    if step.image_weight is not None:
        return native().words(step.image_weight)
    return native().planes(step.planes, step.basis, step.offset)


def bind(isa: str, workspace: Any, program: Program, choose: Choose, weights: Weights) -> Any:
    """A compiled program.

    Args:
        isa: a usable instruction set.
        workspace: threads and memory to run in.
        choose: names each convolution's kernel.
        weights: prepared weights by step name and kernel; a convolution that has none prepares
            each block of them when it needs it.
    """
    bound = Bound(native().Program(isa, workspace), choose, weights)
    for value in program.values:
        bound.program.value(
            kind=value.kind,
            channels=value.channels,
            height=value.height,
            width=value.width,
            fill=value.fill,
        )
    for number, step in enumerate(program.steps):
        bound.number = number
        step.bind_cpu(bound)
    bound.program.finish()
    return bound.program


class Bound:
    """What operations add themselves to.

    Attributes:
        program: of the compiled kernels.
        number: of the step that is added.
    """

    def __init__(self, program: Any, choose: Choose, weights: Weights) -> None:
        self.program = program
        self.number = 0
        self._choose, self._weights = choose, weights

    def conv(self, step: ConvStep) -> None:
        """A convolution, with the kernel that was chosen for it."""
        kernel = self._choose(self.number, step)
        self.program.conv(
            kernel=kernel,
            form=_native_form(step.form),
            inverse_step=step.inverse_step or 0.0,
            input=step.input,
            prepared=self._weights.get((step.name, kernel)),
            source=source_of(step),
            tables=self.tables(step.epilogue, step.out_channels, step.correction),
        )

    def tables(
        self, e: Epilogue, channels: int, correction: NDArray[np.int32] | None = None
    ) -> Any:
        """The epilogue as the kernels compare it: "x > threshold" only, see epilogue.h.

        Where `sign` is -1,  -x > t  is  not (x > t')  with t' the largest number below -t; the
        level is then the top one minus the steps passed.
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
            add=e.add,
            keep=e.keep,
            codes=e.codes,
        )


# A network asks for each of its forms several times, at every size.
@lru_cache(4096)
def _native_form(form: ConvForm) -> Any:
    return native().ConvForm(**{field.name: getattr(form, field.name) for field in fields(form)})
