"""The largest value of each window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsquant.errors import PackError
from rsquant.kernels import reference
from rsquant.packed.fields import Fields, Pair
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.window import (
    check_half,
    check_padding,
    is_size_of,
    pair,
    pooled,
    pooled_pixels,
    reaches,
    read_pool_padding,
    read_window,
    takes_zeros,
    version_for,
)
from rsquant.packed.plan import ANY_POOLING, FLOAT_INPUTS, LAST_VALUE, MAX_KERNEL
from rsquant.packed.windows import Spans, inside, longest
from rsquant.padding import Padding, Pads, extent_of, plainest, with_zeros

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class MaxPoolSpec(OpSpec):
    """Largest value of each window; every window has pixels of the input."""

    OP = "maxpool"
    TORCH = ("torch.nn.MaxPool2d", "torch.nn.functional.max_pool2d", "torch.max_pool2d")

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def plain(self) -> bool:
        """Whether it has neither of what version 4 brought, which files then say nothing of."""
        return self.dilation == (1, 1) and not self.ceil_mode

    @property
    def needs(self) -> int:
        return version_for(self.padding, FLOAT_INPUTS) if self.plain else ANY_POOLING

    def to_json(self) -> dict[str, Any]:
        fields = super().to_json()
        if self.plain:
            del fields["dilation"], fields["ceil_mode"]
        return fields

    @classmethod
    def read(cls, fields: Fields, name: str) -> MaxPoolSpec:
        kernel = fields.pair("kernel", 1, MAX_KERNEL)
        dilation, ceil_mode = (1, 1), False
        if fields.has("dilation") or fields.has("ceil_mode"):
            dilation = fields.pair("dilation", 1, MAX_KERNEL)
            ceil_mode = fields.flag("ceil_mode")
        return cls(
            name=name,
            input=fields.integer("input", 0, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            kernel=kernel,
            stride=fields.pair("stride", 1, MAX_KERNEL),
            padding=read_pool_padding(fields, extent_of(kernel, dilation)),
            dilation=dilation,
            ceil_mode=ceil_mode,
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        if call.argument(6, "return_indices", False):
            call.refuse("has return_indices", "use a pooling without")
        source = call.input()
        if is_size_of(call.size(1, "kernel_size"), source):
            # Not where files are read: few need it.
            from rsquant.packed.ops.adaptive_maxpool import AdaptiveMaxPoolSpec

            if call.argument(3, "padding", 0) not in (0, (0, 0), [0, 0]):
                call.refuse("is a maximum of the whole map and a padding", "pool without padding")
            if call.argument(4, "dilation", 1) not in (1, (1, 1), [1, 1]):
                call.refuse("is a maximum of the whole map with dilation", "pool without")
            return call.op(AdaptiveMaxPoolSpec.OP, (source,), pixels=(1, 1), size=(1, 1))
        kernel, stride = read_window(call)
        fields = {
            "kernel": kernel,
            "stride": stride,
            "padding": pair(call.argument(3, "padding", 0)),
            "dilation": pair(call.argument(4, "dilation", 1)),
            "ceil_mode": bool(call.argument(5, "ceil_mode", False)),
        }
        return call.op(cls.OP, (source,), pixels=pooled_pixels(source.pixels, fields), **fields)

    @classmethod
    def every_pixel(cls, call: Any, x: Any, stride: Pair) -> Any:
        """Every so many pixels of a map, x[:, :, ::2, ::2]: the largest of windows of one."""
        one = (1, 1)
        fields: dict[str, Any] = {
            "kernel": one,
            "stride": stride,
            "padding": (0, 0),
            "dilation": one,
            "ceil_mode": False,
        }
        return call.op(cls.OP, (x,), pixels=pooled_pixels(x.pixels, fields), **fields)

    @classmethod
    def takes_padding(cls, op: Any, zeros: Pads | str, filler: float, positive: bool) -> bool:
        below_all = filler == -math.inf or (filler == 0 and positive)
        return below_all and takes_zeros(op.fields, zeros)

    @classmethod
    def lower(cls, op: Any, to: Any) -> MaxPoolSpec:
        fields = op.fields
        kernel, stride, padding = (fields[name] for name in ("kernel", "stride", "padding"))
        extent = extent_of(kernel, fields["dilation"])
        check_half(op.name, fields)
        pads: Padding
        if isinstance(op.zeros, str):
            pads = plainest(op.zeros, extent, stride)
        else:
            pads = with_zeros(padding, op.zeros)
        if reaches(pads, extent):
            raise PackError(f"{op.name}: padding {pads} is as large as its kernel; use less")
        source = op.inputs[0]
        value = to.stored(source, op.name)
        if source in to.codes:
            output = to.write_codes(op)
            if op.moved is not None:
                made = to.lowered.codes[op.moved.name]
                made[made.index(value)] = output
        else:
            output = to.write_float(op)
        return cls(to.name(op.name), value, output, **{**fields, "padding": pads})

    def check(self, checker: Checker) -> None:
        source = checker.read_map(self.input, bytes_too=True)
        check_padding(checker, self.padding)
        if not self.plain:
            checker.since(ANY_POOLING, "'dilation' and 'ceil_mode' exist")
        checker.write(self.output, source)

    def build(self, builder: Builder) -> MaxPoolStep:
        source = builder.values[self.input]
        rows, columns = pooled(
            builder,
            (source.height, source.width),
            self.padding,
            self.kernel,
            self.stride,
            self.dilation,
            self.ceil_mode,
        )
        rows = inside(rows, source.height, self.dilation[0])
        columns = inside(columns, source.width, self.dilation[1])
        builder.write(
            (len(rows), len(columns)), builder.bounds[self.input], builder.ranges[self.input]
        )
        return MaxPoolStep(self.name, self.input, self.output, rows, columns, self.dilation)


@dataclass(frozen=True)
class MaxPoolStep(Step):
    """Largest value of each window, of codes (bytes ascend with levels), bytes or floats.

    Attributes:
        rows, columns: (OH, 2), (OW, 2), of each window its first pixel and the one behind its last.
        dilation: pixels from one to the next in a window.
    """

    name: str
    input: int
    output: int
    rows: Spans
    columns: Spans
    dilation: Pair = (1, 1)

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        values.append(
            reference.max_pool(values[self.input], self.rows, self.columns, self.dilation)
        )

    def bind_cpu(self, to: Any) -> None:
        to.program.max_pool(
            input=self.input,
            output=self.output,
            rows=self.rows,
            columns=self.columns,
            dilation=self.dilation,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.pool import max_pool

        x, out = to.values[self.input], to.values[self.output]
        rows, columns = to.put(self.rows), to.put(self.columns)
        taps = longest(self.rows, self.dilation[0]), longest(self.columns, self.dilation[1])
        basis = to.basis(self.input)
        return GpuCall(
            lambda: max_pool(x, out, rows, columns, taps, self.dilation, basis),
            rows.nbytes + columns.nbytes,
        )
