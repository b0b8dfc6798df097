"""What operations add their steps to: tables turned into what the compiled kernels compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels.backends import native
from rsquant.packed.fold import INT32
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.ops.integer_epilogue import AnyEpilogue, ByteEpilogue
from rsquant.runtime.cpu.byte_tables import byte_tables
from rsquant.runtime.cpu.form import native_form
from rsquant.runtime.cpu.weights import KernelWeights


class Steps:
    """The steps of one program.

    Attributes:
        program: of the compiled kernels.
        number: of the step that is added.
    """

    def __init__(self, program: Any, weights: Mapping[int, KernelWeights]) -> None:
        self.program = program
        self.number = 0
        self._weights = weights

    def conv(self, step: ConvStep) -> None:
        """A convolution, with the kernel that was chosen for it."""
        weights = self._weights[self.number]
        self.program.conv(
            kernel=weights.kernel,
            form=native_form(step.form),
            inverse_step=step.inverse_step or 0.0,
            input=step.input,
            prepared=weights.prepared,
            source=weights.source,
            tables=self.tables(step.epilogue, step.out_channels, step.correction),
        )

    def tables(
        self, e: AnyEpilogue, channels: int, correction: NDArray[np.int32] | None = None
    ) -> Any:
        """The epilogue as the kernels compare it: "x > threshold" only, see epilogue.h.

        Where `sign` is -1,  -x > t  is  not (x > t')  with t' the largest number below -t; the
        level is then the top one minus the steps passed.
        """
        correction = np.zeros(channels, np.int32) if correction is None else correction
        if isinstance(e, ByteEpilogue):
            return byte_tables(e, correction)
        levels = e.levels.astype(np.int32)
        falling = e.sign < 0
        if e.integer:
            flipped = np.where(falling, -1 - e.thresholds.astype(np.int64), e.thresholds)
            moved = np.minimum(np.maximum(flipped + correction, INT32.min), INT32.max)
            thresholds: NDArray[Any] = moved.astype(np.int32)
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
