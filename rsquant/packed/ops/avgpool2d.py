"""The mean of each window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import PackError
from rsquant.kernels import reference
from rsquant.packed.fields import Fields, Pair
from rsquant.packed.ops.avgpool import AvgPoolSpec
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.byte_average import (
    ByteAverageStep,
    ByteOutput,
    byte_average,
    json_with_output,
)
from rsquant.packed.ops.window import (
    check_half,
    is_size_of,
    pair,
    pooled,
    pooled_pixels,
    read_pool_padding,
    read_window,
    takes_zeros,
)
from rsquant.packed.plan import INTEGERS, LAST_VALUE, MAX_KERNEL
from rsquant.packed.windows import Spans, inside, longest
from rsquant.padding import Padding, Pads, pads_at, plainest, with_zeros

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

MAX_DIVISOR = 2**24


@dataclass(frozen=True)
class AvgPool2dSpec(OpSpec):
    """Sum of each window over `divisor`, or over how many pixels it has.

    With `count_include_pad` those of the padding are counted, though not what lies beyond it.

    Attributes:
        bytes: what it makes of bytes or codes; None for floats.
    """

    OP = "avgpool2d"
    SINCE = 4
    TORCH = ("torch.nn.AvgPool2d", "torch.nn.functional.avg_pool2d")

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Padding
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None
    bytes: ByteOutput | None = None

    @property
    def needs(self) -> int:
        return self.SINCE if self.bytes is None else INTEGERS

    def to_json(self) -> dict[str, Any]:
        return json_with_output(self)

    @classmethod
    def read(cls, fields: Fields, name: str) -> AvgPool2dSpec:
        kernel = fields.pair("kernel", 1, MAX_KERNEL)
        return cls(
            name=name,
            input=fields.integer("input", 1, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            kernel=kernel,
            stride=fields.pair("stride", 1, MAX_KERNEL),
            padding=read_pool_padding(fields, kernel),
            ceil_mode=fields.flag("ceil_mode"),
            count_include_pad=fields.flag("count_include_pad"),
            divisor=fields.integer_or_none("divisor", 1, MAX_DIVISOR),
            bytes=ByteOutput.read(fields),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        source = call.input()
        if is_size_of(call.size(1, "kernel_size"), source):
            return AvgPoolSpec.whole(call)
        kernel, stride = read_window(call)
        divisor = call.argument(6, "divisor_override", None)
        if divisor is not None and not 1 <= divisor <= MAX_DIVISOR:
            call.refuse(f"divides by {divisor}", f"use a divisor of 1 to {MAX_DIVISOR}")
        fields = {
            "kernel": kernel,
            "stride": stride,
            "padding": pair(call.argument(3, "padding", 0)),
            "ceil_mode": bool(call.argument(4, "ceil_mode", False)),
            "count_include_pad": bool(call.argument(5, "count_include_pad", True)),
            "divisor": divisor,
        }
        return call.op(cls.OP, (source,), pixels=pooled_pixels(source.pixels, fields), **fields)

    @classmethod
    def lower(cls, op: Any, to: Any) -> AvgPool2dSpec:
        fields = op.fields
        kernel, padding = fields["kernel"], fields["padding"]
        check_half(op.name, fields)
        if max(kernel) > MAX_KERNEL or max(fields["stride"]) > MAX_KERNEL:
            raise PackError(
                f"{op.name}: has a kernel or stride of more than {MAX_KERNEL} pixels; average the "
                "whole map, or use an adaptive pooling"
            )
        if op.zeros is not None:
            # Zeros of a padding in front of it are counted.
            fields = {**fields, "count_include_pad": True}
            if isinstance(op.zeros, str):
                padding = plainest(op.zeros, kernel, fields["stride"])
            else:
                padding = with_zeros(padding, op.zeros)
        value = to.float_of(op.inputs[0], op.name)
        return cls(to.name(op.name), value, to.write_float(op), **{**fields, "padding": padding})

    @classmethod
    def takes_padding(cls, op: Any, zeros: Pads | str, filler: float, positive: bool) -> bool:
        fields = op.fields
        if filler != 0 or (any(fields["padding"]) and not fields["count_include_pad"]):
            return False
        return takes_zeros(fields, zeros)

    def check(self, checker: Checker) -> None:
        if self.bytes is not None:
            self.bytes.check(checker, self.input, self.output)
            return
        checker.write(self.output, checker.read_float(self.input))

    def build(self, builder: Builder) -> AvgPool2dStep | ByteAverageStep:
        source = builder.values[self.input]
        side = source.height, source.width
        spans = pooled(
            builder, side, self.padding, self.kernel, self.stride, ceil_mode=self.ceil_mode
        )
        rows, columns = (inside(*axis) for axis in zip(spans, side, strict=True))
        pads = pads_at(self.padding, side, self.kernel, self.stride)
        height, width = (
            np.minimum(s[:, 1], side[i] + pads[2 + i]) - s[:, 0] for i, s in enumerate(spans)
        )
        if not self.count_include_pad:
            height, width = rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]
        pixels = np.outer(height, width)
        if self.divisor is not None:
            pixels = np.full_like(pixels, self.divisor)
        if self.bytes is not None:
            return byte_average(
                builder, self.name, self.input, self.output, self.bytes, rows, columns, pixels
            )
        return averaged(builder, self, rows, columns, pixels)


class _Averaging(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...


def averaged(
    builder: Builder, spec: _Averaging, rows: Spans, columns: Spans, divisors: NDArray[Any]
) -> AvgPool2dStep:
    """Sums of windows over `divisors` (OH, OW), integers of at least 1; writes the value."""
    pixels = np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]).astype(np.int64)
    bound, expected = builder.bounds[spec.input], builder.ranges[spec.input]
    builder.finite(bound * float(pixels.max()))
    most = float((pixels / divisors).max())
    builder.write((len(rows), len(columns)), bound * most, expected * most)
    share = (1 / divisors).astype(np.float32)
    return AvgPool2dStep(spec.name, spec.input, spec.output, rows, columns, share)


@dataclass(frozen=True)
class AvgPool2dStep(Step):
    """share times the sum of each window, float32; see `kernels.reference.average_windows`.

    Attributes:
        rows, columns: (OH, 2), (OW, 2), of each window its first pixel and the one behind its last.
        share: (OH, OW), 1 / how many pixels count.
    """

    name: str
    input: int
    output: int
    rows: Spans
    columns: Spans
    share: NDArray[np.float32]

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        values.append(reference.average_windows(x, self.rows, self.columns, self.share))

    def bind_cpu(self, to: Any) -> None:
        to.program.average_windows(
            input=self.input,
            output=self.output,
            rows=self.rows,
            columns=self.columns,
            share=self.share,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.pool import average_windows

        x, out = to.values[self.input], to.values[self.output]
        tables = [to.put(table) for table in (self.rows, self.columns, self.share)]
        rows, columns, share = tables
        taps = longest(self.rows), longest(self.columns)
        return GpuCall(
            lambda: average_windows(x, out, rows, columns, taps, share),
            sum(table.nbytes for table in tables),
        )
