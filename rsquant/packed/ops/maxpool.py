"""The largest value of each window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsquant.errors import PackError
from rsquant.kernels import reference
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.window import (
    check_padding,
    pair,
    reaches,
    read_padding,
    read_window,
    version_for,
    window,
)
from rsquant.packed.plan import FLOAT_INPUTS, LAST_VALUE, MAX_KERNEL
from rsquant.padding import Padding, Pads, plainest, with_zeros

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class MaxPoolSpec(OpSpec):
    """Largest value of each window; every window has pixels of the input."""

    OP = "maxpool"
    TORCH = ("torch.nn.MaxPool2d", "torch.nn.functional.max_pool2d")

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Padding

    @property
    def needs(self) -> int:
        return version_for(self.padding, FLOAT_INPUTS)

    @classmethod
    def read(cls, fields: Fields, name: str) -> MaxPoolSpec:
        step = cls(
            name=name,
            input=fields.integer("input", 0, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            kernel=fields.pair("kernel", 1, MAX_KERNEL),
            stride=fields.pair("stride", 1, MAX_KERNEL),
            padding=read_padding(fields),
        )
        # Alike on both sides, it is torch's to allow; else every window must have pixels.
        height, width = step.kernel
        most = step.kernel if len(step.padding) == 4 else (height // 2 + 1, width // 2 + 1)
        if reaches(step.padding, most):
            raise FieldError(
                f"{fields.where}: padding must be at most half the kernel, or, where sides "
                "differ, smaller than the kernel"
            )
        return step

    @classmethod
    def trace(cls, call: Any) -> Any:
        dilation = pair(call.argument(4, "dilation", 1))
        if (
            call.argument(5, "ceil_mode", False)
            or call.argument(6, "return_indices", False)
            or dilation != (1, 1)
        ):
            call.refuse("has ceil_mode, dilation or return_indices", "use a plain pooling")
        kernel, stride = read_window(call)
        padding = pair(call.argument(3, "padding", 0))
        return call.op(cls.OP, (call.input(),), kernel=kernel, stride=stride, padding=padding)

    @classmethod
    def lower(cls, op: Any, to: Any) -> MaxPoolSpec:
        kernel, stride, padding = (op.fields[name] for name in ("kernel", "stride", "padding"))
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise PackError(f"{op.name}: pads more than half its kernel; use a smaller padding")
        pads: Padding
        if isinstance(op.zeros, str):
            pads = plainest(op.zeros, kernel, stride)
        else:
            pads = with_zeros(padding, op.zeros)
        if reaches(pads, kernel):
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
        return cls(to.name(op.name), value, output, kernel, stride, pads)

    def check(self, checker: Checker) -> None:
        source = checker.read_map(self.input)
        check_padding(checker, self.padding)
        checker.write(self.output, source)

    def build(self, builder: Builder) -> MaxPoolStep:
        source = builder.values[self.input]
        shape, pads = window(
            builder, (source.height, source.width), self.padding, self.kernel, self.stride
        )
        builder.write(shape, builder.bounds[self.input], builder.ranges[self.input])
        return MaxPoolStep(self.name, self.input, self.output, self.kernel, self.stride, pads)


@dataclass(frozen=True)
class MaxPoolStep(Step):
    """Largest value of each window, of codes (bytes ascend with levels) or floats.

    The padding, above, left, below and right, never wins.
    """

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Pads

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        values.append(
            reference.max_pool(values[self.input], self.kernel, self.stride, self.padding)
        )

    def bind_cpu(self, to: Any) -> None:
        to.program.max_pool(
            input=self.input,
            output=self.output,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding[:2],
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.pool import max_pool

        x, out = to.values[self.input], to.values[self.output]
        basis = to.basis(self.input)
        return GpuCall(lambda: max_pool(x, out, self.kernel, self.stride, self.padding[:2], basis))
