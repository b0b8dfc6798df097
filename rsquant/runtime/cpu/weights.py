"""Weights as the kernels read them: as the file has them, and in the kernels' own layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rsquant.beside import beside
from rsquant.kernels.backends import native
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program
from rsquant.runtime.cpu.form import convolutions, has_small_layout, native_form, pixel_bytes


@dataclass(frozen=True)
class KernelWeights:
    """What one convolution runs with.

    Attributes:
        kernel: its name.
        source: the weights of the file.
        prepared: in the kernel's layout; None: it prepares each block of them when it needs it.
    """

    kernel: str
    source: Any
    prepared: Any


class PreparedWeights:
    """Layouts that were made for a network, the same at every size.

    Args:
        isa: the instruction set whose kernels read them.
        low_memory: make only small ones.
    """

    def __init__(self, isa: str, low_memory: bool = False) -> None:
        self._isa, self._low_memory = isa, low_memory
        self._prepared: dict[tuple[str, str], Any] = {}

    @contextlib.contextmanager
    def of(
        self, program: Program, kernels: Mapping[int, str], threads: int = 1
    ) -> Iterator[dict[int, KernelWeights]]:
        """The weights of each convolution, by the number of its step; made where they are missing.

        They are made while the block of the `with` statement runs, which may bind a program to
        them, and are there behind it.

        Args:
            kernels: of each convolution, by the number of its step.
            threads: that make them.
        """
        steps = convolutions(program)
        sources = {number: _source(step) for number, step in steps.items()}
        missing = {
            (step.name, kernels[number]): number
            for number, step in steps.items()
            if not self._low_memory or has_small_layout(self._isa, kernels[number], step.form)
        }
        missing = {k: number for k, number in missing.items() if k not in self._prepared}
        requests = [
            native().Request(
                kernel=kernel,
                form=native_form(steps[number].form),
                pixel_bytes=pixel_bytes(steps[number].form),
                source=sources[number],
            )
            for (_, kernel), number in missing.items()
        ]
        # Together, in one block of memory; without the GIL.
        layouts = native().Layouts(isa=self._isa, requests=requests)
        made = self._prepared | dict(zip(missing, layouts.prepared, strict=True))
        weights = {
            number: KernelWeights(
                kernels[number], sources[number], made.get((step.name, kernels[number]))
            )
            for number, step in steps.items()
        }
        if not requests:  # as of most sizes but the first
            yield weights
            return
        with beside(lambda: layouts.prepare(threads=threads)):
            yield weights
        self._prepared = made

    @property
    def bytes(self) -> int:
        """Of all layouts together."""
        return sum(prepared.bytes for prepared in self._prepared.values())


def _source(step: ConvStep) -> Any:
    """Views of the file."""
    if step.whole_weight is not None:
        return native().words(step.whole_weight)
    return native().planes(step.planes, step.basis, step.offset)
