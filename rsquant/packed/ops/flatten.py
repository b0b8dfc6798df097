"""A map of several pixels as one pixel of more channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.packed.fields import Fields, Pair
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.plan import LAST_VALUE, MAX_CHANNELS

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class FlattenSpec(OpSpec):
    """A map that has `pixels` (height, width) at every size of the image, in torch's order:
    channel by channel, each row by row."""

    OP = "flatten"
    SINCE = 4

    name: str
    input: int
    output: int
    pixels: Pair

    @classmethod
    def read(cls, fields: Fields, name: str) -> FlattenSpec:
        return cls(
            name,
            fields.integer("input", 1, LAST_VALUE),
            fields.integer("output", 1, LAST_VALUE),
            fields.pair("pixels", 1, MAX_CHANNELS),
        )

    def check(self, checker: Checker) -> None:
        channels = checker.read_float(self.input).channels * self.pixels[0] * self.pixels[1]
        if channels > MAX_CHANNELS:
            raise checker.wrong(f"gives {channels} channels, at most {MAX_CHANNELS} are known")
        checker.write(self.output, ValueSpec("float", channels))

    def build(self, builder: Builder) -> FlattenStep:
        source = builder.values[self.input]
        if (source.height, source.width) != self.pixels:
            height, width = self.pixels
            raise builder.wrong_size(
                f"flattens maps of {height}x{width} pixels, and they give one of "
                f"{source.height}x{source.width}"
            )
        builder.write((1, 1), builder.bounds[self.input], builder.ranges[self.input])
        return FlattenStep(self.name, self.input, self.output)


@dataclass(frozen=True)
class FlattenStep(Step):
    """(H, W, C) to (1, 1, C H W), channel by channel."""

    name: str
    input: int
    output: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        values.append(np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), 1, 1, -1))

    def bind_cpu(self, to: Any) -> None:
        to.program.flatten(input=self.input, output=self.output)

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.flatten import flatten

        x, out = to.values[self.input], to.values[self.output]
        return GpuCall(lambda: flatten(x, out))
