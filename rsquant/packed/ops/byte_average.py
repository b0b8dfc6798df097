"""Averages of bytes and codes, by integer arithmetic; part of the average poolings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed import integers
from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec, as_json
from rsquant.packed.ops.integer_epilogue import read_zero
from rsquant.packed.windows import Spans, longest

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

_TOP = integers.BYTE_TOP


@dataclass(frozen=True)
class ByteOutput:
    """The bytes that an average of bytes or codes makes: see `ValueSpec`."""

    scale: str
    zero: int

    @classmethod
    def read(cls, fields: Fields) -> ByteOutput | None:
        """Of an average's fields; None where it is one of floats."""
        if not fields.has("scale"):
            return None
        zero = read_zero(fields, "zero")
        if zero is None:
            raise FieldError(f"{fields.where}: 'zero' must be 0 or 128, got null")
        return cls(fields.text("scale"), zero)

    def check(self, checker: Checker, source: int, output: int) -> None:
        """Check what is averaged, and note what is written."""
        found = checker.read_map(source, bytes_too=True)
        if found.kind == "float":
            raise checker.wrong(f"has a 'scale', as averages of bytes do, and {source} is float")
        checker.byte_scale(self.scale)
        spec = ValueSpec("bytes", found.channels, scale=self.scale, zero=self.zero)
        checker.write(output, spec)


def json_with_output(spec: OpSpec) -> dict[str, Any]:
    """An average's fields, and those of its `bytes` beside them."""
    fields = as_json(spec)
    output = fields.pop("bytes") or {}
    return {"op": spec.OP, **fields, **output}


def byte_average(
    builder: Builder,
    name: str,
    source: int,
    output: int,
    to: ByteOutput,
    rows: Spans,
    columns: Spans,
    pixels: NDArray[Any],
) -> ByteAverageStep:
    """The mean of each window of bytes or codes, in bytes; writes its value.

    Args:
        source: the value averaged.
        rows, columns: (OH, 2), (OW, 2), of each window its first pixel and the one behind its last.
        pixels: (OH, OW), what the sum of each window is divided by.
    Raises:
        ModelError: sums of so many pixels would not be exact.
    """
    taps = int((rows[:, 1] - rows[:, 0]).max()) * int((columns[:, 1] - columns[:, 0]).max())
    if taps * _TOP > integers.SUM_LIMIT:
        raise builder.wrong_size(f"averages {taps} pixels, too many for exact sums of bytes")
    unit, input_zero = builder.unit(source)
    step = builder.byte_scale(to.scale)
    builder.exact_floats(np.full(1, unit), np.zeros(1), step)
    factor = integers.average(unit, step, pixels)
    builder.write((len(rows), len(columns)))
    return ByteAverageStep(name, source, output, rows, columns, factor, input_zero, to.zero)


@dataclass(frozen=True)
class ByteAverageStep(Step):
    """code = min(max(round(factor * float32(sum of the codes)), -zero), 255 - zero) of each window.

    Bytes are code + zero, and those of the input code + input_zero.

    Attributes:
        rows, columns: (OH, 2), (OW, 2) int32, as of `MaxPoolStep`.
        factor: (OH, OW) float32.
    """

    name: str
    input: int
    output: int
    rows: Spans
    columns: Spans
    factor: NDArray[np.float32]
    input_zero: int
    zero: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input].astype(np.int32) - self.input_zero
        tall = np.stack([x[:, i:end].sum(1) for i, end in self.rows], 1)
        sums = np.stack([tall[:, :, j:end].sum(2) for j, end in self.columns], 2)
        y = self.factor[:, :, None] * sums.astype(np.float32)
        code = np.rint(np.clip(y, -self.zero, _TOP - self.zero)).astype(np.int32)
        values.append((code + self.zero).astype(np.uint8))

    def bind_cpu(self, to: Any) -> None:
        to.program.byte_average(
            input=self.input,
            output=self.output,
            rows=self.rows,
            columns=self.columns,
            factor=self.factor,
            input_zero=self.input_zero,
            zero=self.zero,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.byte_average import byte_average as launch

        x, out = to.values[self.input], to.values[self.output]
        rows, columns, factor = to.put(self.rows), to.put(self.columns), to.put(self.factor)
        taps, basis = (longest(self.rows), longest(self.columns)), to.basis(self.input)
        channels = to.program.values[self.output].channels
        return GpuCall(
            lambda: launch(
                x, channels, out, rows, columns, taps, factor, self.input_zero, self.zero, basis
            ),
            rows.nbytes + columns.nbytes + factor.nbytes,
        )
