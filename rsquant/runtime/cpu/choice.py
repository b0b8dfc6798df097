"""Which kernel computes each convolution on this CPU: asked for, measured, or the default."""

from __future__ import annotations

import contextlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

from rsquant.kernels.backends import native
from rsquant.packed.build import build_program
from rsquant.packed.file import Packed
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import Program
from rsquant.runtime import tuning
from rsquant.runtime.cpu.form import convolutions, eligible_kernels, has_small_layout
from rsquant.runtime.cpu.timing import Budget, fastest_kernels

# A change of the kernels that may change what is fastest takes a new number.
VERSION = 19
# Of measuring for a setting of a file, all its sizes together, but for the run under way when they
# are over.
TUNE_SECONDS = 4.5


class KernelChoice:
    """The kernels of an instruction set that a session runs.

    Args:
        isa: a usable instruction set.
        threads: that share the work.
        low_memory: only kernels that need no prepared weights, or small ones.
        kernel: the one to use wherever it can be; None: the fastest measured, else the default.
    """

    def __init__(self, isa: str, threads: int, low_memory: bool, kernel: str | None) -> None:
        self._isa, self._threads = isa, threads
        self._low_memory, self._kernel = low_memory, kernel
        self._known = tuning.read()

    def kernels(self, program: Program) -> dict[int, str]:
        """The kernel of each convolution, by the number of its step."""
        steps = convolutions(program)
        return {number: self._of(program, step) for number, step in steps.items()}

    def eligible(self, step: ConvStep) -> tuple[str, ...]:
        """The kernels that may compute a convolution, the default first."""
        names = eligible_kernels(self._isa, step.form)
        if self._low_memory:
            names = tuple(name for name in names if self._in_low_memory(name, step))
        return names

    def measure(self, packed: Packed, workspace: Any) -> None:
        """Time the eligible kernels of convolutions that have no choice yet, and keep the fastest.

        Each runs in its place in the network, at the sizes of the file, once per setting of a file.
        Sizes share TUNE_SECONDS, smallest first, each at most an equal part of what is left: a
        small one needs a fraction of its part, and the rest is left to the large ones.

        Args:
            workspace: threads and memory to run in.
        """
        if self._low_memory or self._kernel is not None:
            return
        done = self._done_key(packed)
        if done in self._known:
            return
        found: tuning.Choices = {done: ""}
        budget = Budget(TUNE_SECONDS)
        sizes = sorted(packed.plan.network.resolutions)
        for number, size in enumerate(sizes):
            program = build_program(packed, size, size)
            unknown = self._unknown(program)
            seconds = budget.left() / (len(sizes) - number)
            if unknown and seconds > 0:
                steps = convolutions(program)
                keys = {step: self._key(program, steps[step]) for step in unknown}
                kernels = self.kernels(program)
                fastest = fastest_kernels(
                    self._isa, workspace, program, unknown, keys, kernels, seconds
                )
                found |= {keys[step]: kernel for step, kernel in fastest.items()}
        self._known.update(found)
        tuning.write(found)

    def _of(self, program: Program, step: ConvStep) -> str:
        eligible = self.eligible(step)
        if self._kernel is not None:
            return self._kernel if self._kernel in eligible else eligible[0]
        known = self._known.get(self._key(program, step)) if len(eligible) > 1 else None
        if known not in eligible:
            return eligible[0]
        # What was measured had prepared weights. Without them `lookup` is fastest where it leads.
        unpacks = self._low_memory and not has_small_layout(self._isa, known, step.form)
        return eligible[0] if unpacks and eligible[0] == "lookup" else known

    def _in_low_memory(self, kernel: str, step: ConvStep) -> bool:
        return native().low_memory(self._isa, kernel) or has_small_layout(
            self._isa, kernel, step.form
        )

    def _unknown(self, program: Program) -> dict[int, tuple[str, ...]]:
        """Eligible kernels of the convolutions without a choice, by the number of the step."""
        unknown = {}
        for number, step in convolutions(program).items():
            eligible = self.eligible(step)
            known = self._known.get(self._key(program, step))
            if len(eligible) > 1 and known not in eligible:
                unknown[number] = eligible
        return unknown

    def _key(self, program: Program, step: ConvStep) -> str:
        """What a choice depends on: the machine, and the convolution with its size."""
        source = program.values[step.input]
        form = step.form
        # The basis decides what is eligible, not what is fast.
        numbers = (
            form.groups,
            form.in_channels,
            form.out_channels,
            *form.kernel,
            *form.stride,
            *form.padding,
            *form.dilation,
            form.input_limit,
            form.weight_limit,
            int(form.real),
            form.weight_bits,
            len(form.input_basis),
            source.height,
            source.width,
        )
        return f"{self.machine}|{'-'.join(map(str, numbers))}"

    def _done_key(self, packed: Packed) -> str:
        """Stands for "all convolutions of this setting of this file have their choices"."""
        return f"{self.machine}|file {packed.checksum:08x} {packed.variants[0]}"

    @property
    def machine(self) -> str:
        """Version of the kernels, processor, instruction set and threads: what times depend on."""
        return f"{VERSION}|{_processor()}|{self._isa}|{self._threads}"


@cache
def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
