"""Weights in the kernels' own layouts."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rsquant.kernels.backends import native
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program
from rsquant.runtime.cpu.form import convolutions, native_form


class PreparedWeights:
    """What the kernels of a network's convolutions read; the same at every size.

    Attributes:
        isa: the instruction set whose kernels read it.
    """

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self._prepared: dict[tuple[str, str], Any] = {}

    def add(self, program: Program, kernels: Mapping[int, str], threads: int = 1) -> None:
        """Prepare what a program needs and is not there yet.

        Args:
            kernels: of each convolution, by the number of its step.
        """
        wanted = {}
        for number, step in convolutions(program).items():
            if (step.name, kernels[number]) not in self._prepared:
                wanted[step.name, kernels[number]] = step
        if threads == 1:
            for key, step in wanted.items():
                self._prepared[key] = self._prepare(key[1], step)
            return
        with ThreadPoolExecutor(threads) as pool:
            made = pool.map(lambda item: self._prepare(item[0][1], item[1]), wanted.items())
            self._prepared.update(zip(wanted, made, strict=True))

    def of(self, step: ConvStep, kernel: str) -> Any:
        """Those of a convolution for a kernel; None where they were not prepared."""
        return self._prepared.get((step.name, kernel))

    @property
    def bytes(self) -> int:
        """Of all together."""
        return sum(prepared.bytes for prepared in self._prepared.values())

    def _prepare(self, kernel: str, step: ConvStep) -> Any:
        """Runs without the GIL."""
        pixel_bytes = -(-step.in_channels // 4) * 4
        return native().prepare(
            isa=self.isa,
            kernel=kernel,
            form=native_form(step.form),
            pixel_bytes=pixel_bytes,
            source=source_of(step),
        )


def source_of(step: ConvStep) -> Any:
    """The step's weights as the kernels take them; views of the file."""
    if step.image_weight is not None:
        return native().words(step.image_weight)
    return native().planes(step.planes, step.basis, step.offset)
