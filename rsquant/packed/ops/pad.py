"""Pixels and channels of one value around a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.errors import PackError
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.plan import LAST_VALUE, MAX_CHANNELS, MAX_KERNEL, MAX_SIDE
from rsquant.padding import RULES, Pads, pads_at

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

Sides = tuple[int, int, int, int]


@dataclass(frozen=True)
class PadSpec(OpSpec):
    """A float value with pixels around it, or without some at its ends.

    Attributes:
        padding: pixels above, left, below and right, fewer than 0 are cut off; or a rule, for
            windows of `kernel` pixels `stride` apart (1 and 1 where there is none).
        channels: before and after those of the input.
        value: of what is added.
    """

    OP = "pad"
    SINCE = 4
    TORCH = (
        "torch.nn.ZeroPad2d",
        "torch.nn.ConstantPad2d",
        "torch.nn.functional.pad",
    )

    name: str
    input: int
    output: int
    padding: Sides | str
    kernel: Pair
    stride: Pair
    channels: Pair
    value: float

    @classmethod
    def read(cls, fields: Fields, name: str) -> PadSpec:
        kernel, stride = (fields.pair(what, 1, MAX_KERNEL) for what in ("kernel", "stride"))
        return cls(
            name=name,
            input=fields.integer("input", 1, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            padding=_read_sides(fields),
            kernel=kernel,
            stride=stride,
            channels=fields.pair("channels", 0, MAX_CHANNELS),
            value=fields.real("value"),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        """Left, right, top and bottom, then channels, as torch has them."""
        if call.argument(2, "mode", "constant") != "constant":
            # Not where files are read: few need it.
            from rsquant.packed.ops.extend import ExtendSpec

            return ExtendSpec.trace(call)
        pads: Any = call.argument(1, "padding" if call.module is not None else "pad", None)
        value = call.argument(3, "value", None) or 0.0
        plain = isinstance(pads, (list, tuple)) and all(type(p) is int for p in pads)
        if not plain or len(pads) not in (2, 4, 6, 8) or type(value) not in (int, float):
            call.refuse(f"pads {pads}", "pad height and width with fixed numbers of pixels")
        left, right, top, bottom, *more = list(pads) + [0] * (8 - len(pads))
        if more[2:] != [0, 0] or min(more) < 0:
            call.refuse(f"pads {pads}", "pad height, width and channels only")
        x = call.input()
        op = call.op(cls.OP, (x,), channels=x.channels + sum(more), added=tuple(more[:2]))
        op.name = call.full_name
        op.zeros, op.filler = (top, left, bottom, right), float(value)
        if x.pixels is not None:
            height, width = x.pixels[0] + top + bottom, x.pixels[1] + left + right
            if height < 1 or width < 1:
                call.refuse(f"leaves nothing of a map of {x.pixels[0]}x{x.pixels[1]} pixels")
            op.pixels = height, width
        return op

    @classmethod
    def lower(cls, op: Any, to: Any) -> PadSpec:
        if not np.isfinite(op.filler):
            readers = ", ".join(dict.fromkeys(user.name for user in op.users))
            raise PackError(
                f"{op.name}: pads with {op.filler:g} what {readers} reads; only a max-pooling can "
                "read that, with less padding than its kernel, so put it in front of one"
            )
        rule = isinstance(op.zeros, str)
        kernel, stride = op.fields["window"] if rule else ((1, 1), (1, 1))
        value = to.float_of(op.inputs[0], op.name)
        return cls(
            name=to.name(op.name),
            input=value,
            output=to.write_float(op),
            padding=op.zeros,
            kernel=kernel,
            stride=stride,
            channels=op.fields.get("added", (0, 0)),
            value=op.filler,
        )

    def check(self, checker: Checker) -> None:
        channels = checker.read_float(self.input).channels + sum(self.channels)
        if channels > MAX_CHANNELS:
            raise checker.wrong(f"gives {channels} channels, at most {MAX_CHANNELS} are known")
        checker.write(self.output, ValueSpec("float", channels))

    def build(self, builder: Builder) -> PadStep:
        source = builder.values[self.input]
        side = source.height, source.width
        pads = self.padding
        sides = pads_at(pads, side, self.kernel, self.stride) if isinstance(pads, str) else pads
        shape = side[0] + sides[0] + sides[2], side[1] + sides[1] + sides[3]
        kept = (side[i] + min(sides[i], 0) + min(sides[i + 2], 0) for i in range(2))
        if min(*shape, *kept) < 1:
            raise builder.too_small()
        if max(shape) > MAX_SIDE:
            raise builder.invalid(f"gives a map of {shape[0]}x{shape[1]} pixels")
        size = abs(self.value)
        builder.finite(size)
        builder.write(
            shape, max(builder.bounds[self.input], size), max(builder.ranges[self.input], size)
        )
        return PadStep(self.name, self.input, self.output, sides, self.channels, self.value)


def _read_sides(fields: Fields) -> Sides | str:
    value = fields.take("padding")
    if isinstance(value, str):
        if value not in RULES:
            raise FieldError(f"{fields.where}: 'padding' must be one of {', '.join(RULES)}")
        return value
    given = Fields({"padding": value}, fields.where)
    top, left, bottom, right = given.integers("padding", -MAX_SIDE, MAX_SIDE, 4, 4)
    return top, left, bottom, right


@dataclass(frozen=True)
class PadStep(Step):
    """A float value with `value` around it.

    Attributes:
        sides: pixels above, left, below and right; those below 0 are cut off.
        channels: before and after those of the input.
    """

    name: str
    input: int
    output: int
    sides: Pads
    channels: Pair
    value: float

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        top, left, bottom, right = self.sides
        x = values[self.input]
        height, width = x.shape[1:3]
        x = x[:, max(-top, 0) : height + min(bottom, 0), max(-left, 0) : width + min(right, 0)]
        ends = (0, 0), (top, bottom), (left, right), self.channels
        grown = [(max(before, 0), max(after, 0)) for before, after in ends]
        values.append(np.pad(x, grown, constant_values=np.float32(self.value)))

    def bind_cpu(self, to: Any) -> None:
        to.program.pad(
            input=self.input,
            output=self.output,
            top=self.sides[0],
            left=self.sides[1],
            channel=self.channels[0],
            value=self.value,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.pad import pad

        x, out = to.values[self.input], to.values[self.output]
        top, left = self.sides[:2]
        return GpuCall(lambda: pad(x, out, top, left, self.channels[0], self.value))
