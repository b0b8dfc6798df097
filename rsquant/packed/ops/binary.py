"""Product and sum of two float values, one of which may serve all pixels or channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.epilogue import Epilogue, EpilogueSpec, json_with_epilogue
from rsquant.packed.plan import LAST_VALUE

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

FUNCTIONS = ("multiply", "add")


@dataclass(frozen=True)
class BinarySpec(OpSpec):
    """y = a * b or a + b, float values; y ends in an epilogue.

    Height, width and channels of the two are alike, or 1 at one of them, which then serves all: the
    gates of squeeze-and-excitation have one pixel, those of spatial attention one channel.

    Attributes:
        function: one of FUNCTIONS.
    """

    OP = "binary"
    SINCE = 4

    name: str
    inputs: tuple[int, int]
    function: str
    epilogue: EpilogueSpec

    @classmethod
    def read(cls, fields: Fields, name: str) -> BinarySpec:
        function = fields.text("function")
        if function not in FUNCTIONS:
            raise FieldError(
                f"{fields.where}: 'function' must be one of {', '.join(FUNCTIONS)}, "
                f"got {function!r:.40}"
            )
        one, other = fields.integers("inputs", 1, LAST_VALUE, 2, 2)
        return cls(name, (one, other), function, EpilogueSpec.read(fields))

    def to_json(self) -> dict[str, Any]:
        return json_with_epilogue(self, self.epilogue.KEEPS)

    @classmethod
    def lower(cls, op: Any, to: Any) -> BinarySpec:
        one, other = (to.float_of(source, op.name) for source in op.inputs)
        name = to.name(op.name)
        return cls(name, (one, other), epilogue=to.epilogue(op, op.only_user), **op.fields)

    def check(self, checker: Checker) -> None:
        one, other = (checker.read_float(value).channels for value in self.inputs)
        if one != other and 1 not in (one, other):
            raise checker.wrong(
                f"reads {one} and {other} channels, which must be equal, or 1 in one of them"
            )
        self.epilogue.check(checker, max(one, other))

    def build(self, builder: Builder) -> BinaryStep:
        one, other = (builder.values[value] for value in self.inputs)
        sides = [(one.height, other.height), (one.width, other.width)]
        if any(a != b and 1 not in (a, b) for a, b in sides):
            what = "multiplies" if self.function == "multiply" else "adds"
            raise builder.invalid(
                f"{what} maps of {one.height}x{one.width} and {other.height}x{other.width} pixels"
            )
        reach, usual = self._sizes(builder.bounds), self._sizes(builder.ranges)
        builder.finite(reach)
        ones = np.ones(max(one.channels, other.channels))
        shape = max(sides[0]), max(sides[1])
        epilogue = self.epilogue.build(
            builder, ones, 0 * ones, reach * ones, usual * ones, shape, integers=False
        )
        multiply = self.function == "multiply"
        return BinaryStep(self.name, self.inputs, multiply, len(ones), epilogue)

    def _sizes(self, of: list[float]) -> float:
        """The largest size of a result, of those of values."""
        one, other = (of[value] for value in self.inputs)
        return one * other if self.function == "multiply" else one + other


@dataclass(frozen=True)
class BinaryStep(Step):
    """y = a * b if `multiply` else a + b, then an epilogue of y, which has `channels`."""

    name: str
    inputs: tuple[int, int]
    multiply: bool
    channels: int
    epilogue: Epilogue

    @property
    def reads(self) -> tuple[int, ...]:
        return (*self.inputs, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[int, ...]:
        return self.epilogue.writes

    @property
    def in_place(self) -> tuple[int, int] | None:
        return self.epilogue.in_place

    def run(self, program: Program, values: Values) -> None:
        one, other = (values[value] for value in self.inputs)
        self.epilogue.run(one * other if self.multiply else one + other, values)

    def bind_cpu(self, to: Any) -> None:
        to.program.binary(
            inputs=self.inputs,
            multiply=self.multiply,
            channels=self.channels,
            tables=to.tables(self.epilogue, self.channels),
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.binary import binary

        one, other = (to.values[value] for value in self.inputs)
        out = to.program.values[self.writes[0]]
        shape = out.height, out.width, self.channels
        tables = to.tables(self.epilogue)
        targets = to.targets(self.epilogue)
        return GpuCall(
            lambda: binary(one, other, self.multiply, shape, tables, *targets), tables.nbytes
        )
