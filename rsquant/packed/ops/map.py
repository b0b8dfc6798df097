"""An elementwise operation: an epilogue with no convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.packed.fields import Fields
from rsquant.packed.integers import BYTE_WEIGHT
from rsquant.packed.ops.base import Float64Array, GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.epilogue import json_with_epilogue
from rsquant.packed.ops.integer_epilogue import (
    AnyEpilogue,
    AnyEpilogueSpec,
    ByteEpilogue,
    IntegerEpilogueSpec,
    read_epilogue,
)
from rsquant.packed.plan import INTEGERS, LAST_VALUE
from rsquant.packed.program import Value

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class MapSpec(OpSpec):
    """An elementwise operation on codes, bytes or float values."""

    OP = "map"

    name: str
    input: int
    epilogue: AnyEpilogueSpec

    @property
    def needs(self) -> int:
        integer = isinstance(self.epilogue, IntegerEpilogueSpec)
        return INTEGERS if integer else self.SINCE

    @classmethod
    def read(cls, fields: Fields, name: str) -> MapSpec:
        return cls(name, fields.integer("input", 0, LAST_VALUE), read_epilogue(fields))

    def to_json(self) -> dict[str, Any]:
        return json_with_epilogue(self, self.epilogue.KEEPS)

    def check(self, checker: Checker) -> None:
        integer = isinstance(self.epilogue, IntegerEpilogueSpec)
        source = checker.read_map(self.input, bytes_too=integer)
        if source.kind == "float" and integer:
            raise checker.wrong(f"needs codes or bytes, {self.input} is float")
        self.epilogue.check(checker, source.channels)

    def build(self, builder: Builder) -> MapStep:
        source = builder.values[self.input]
        shape = (source.height, source.width)
        if isinstance(self.epilogue, IntegerEpilogueSpec):
            unit, zero = builder.unit(self.input)
            slope = np.full(source.channels, unit / BYTE_WEIGHT)
            return MapStep(
                self.name,
                self.input,
                source.channels,
                self.epilogue.build_map(builder, slope, zero, shape),
                zero,
            )
        scale, shift, reach, usual = self._stored(builder, source)
        epilogue = self.epilogue.build(builder, scale, shift, reach, usual, shape, integers=False)
        return MapStep(self.name, self.input, source.channels, epilogue)

    def _stored(
        self, builder: Builder, source: Value
    ) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        """scale and shift that make the input's stored numbers its values, and how large they are.

        Stored are the values themselves, or bytes level + zero.

        Returns:
            scale, shift, largest possible and largest expected size of what is stored, all (C,).
        """
        quantizer = builder.packed.values[self.input].quantizer
        ones = np.ones(source.channels)
        if quantizer is None:
            bound, usual = builder.bounds[self.input], builder.ranges[self.input]
            return ones, 0 * ones, bound * ones, usual * ones
        spec = builder.packed.plan.quantizers[quantizer]
        largest = float(spec.limit) * ones
        return spec.scale * ones, -spec.scale * spec.zero * ones, largest, largest


@dataclass(frozen=True)
class MapStep(Step):
    """An elementwise step.

    Of an `Epilogue`, which is never `integer`, x is the input's float, or its byte as a float. Of a
    `ByteEpilogue`, n is 64 (byte - zero).

    Attributes:
        zero: zero point of the input; of a `ByteEpilogue` only.
    """

    name: str
    input: int
    channels: int
    epilogue: AnyEpilogue
    zero: int = 0

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[int, ...]:
        return self.epilogue.writes

    @property
    def in_place(self) -> tuple[int, int] | None:
        return self.epilogue.in_place

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        if isinstance(self.epilogue, ByteEpilogue):
            x = BYTE_WEIGHT * (x.astype(np.int32) - self.zero)
        self.epilogue.run(x, values)

    def bind_cpu(self, to: Any) -> None:
        correction = None
        if isinstance(self.epilogue, ByteEpilogue):  # the kernels take 64 byte
            correction = np.full(self.channels, BYTE_WEIGHT * self.zero, np.int32)
        tables = to.tables(self.epilogue, self.channels, correction)
        to.program.map(input=self.input, tables=tables)

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.elementwise import elementwise

        x, basis = to.values[self.input], to.basis(self.input)
        tables = to.tables(self.epilogue, BYTE_WEIGHT * self.zero)
        add, keep, codes = to.targets(self.epilogue)
        return GpuCall(
            lambda: elementwise(x, self.channels, tables, basis, add, keep, codes, BYTE_WEIGHT),
            tables.nbytes,
        )
