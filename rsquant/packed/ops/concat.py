"""Maps put together along their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsquant.packed.fields import Fields
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.plan import LAST_VALUE, MAX_CHANNELS

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

# A DenseNet's last block has 48; a value may come more than once.
MAX_INPUTS = 256


@dataclass(frozen=True)
class ConcatSpec(OpSpec):
    """The channels of several float values, one after the other."""

    OP = "concat"
    SINCE = 4
    TORCH = ("torch.cat", "torch.concat", "torch.concatenate")

    name: str
    inputs: tuple[int, ...]
    output: int

    @classmethod
    def read(cls, fields: Fields, name: str) -> ConcatSpec:
        return cls(
            name,
            fields.integers("inputs", 1, LAST_VALUE, 1, MAX_INPUTS),
            fields.integer("output", 1, LAST_VALUE),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        inputs = call.inputs(0, "tensors")
        if call.argument(1, "dim", 0) not in (1, -3):
            call.refuse("concatenates along another dimension than channels", "use dim=1")
        channels = sum(source.channels for source in inputs)
        pixels = inputs[0].pixels
        return call.op(cls.OP, inputs, channels=channels, pixels=pixels)

    @classmethod
    def lower(cls, op: Any, to: Any) -> ConcatSpec:
        inputs = tuple(to.float_of(source, op.name) for source in op.inputs)
        return cls(to.name(op.name), inputs, to.write_float(op))

    def check(self, checker: Checker) -> None:
        channels = sum(checker.read_float(value).channels for value in self.inputs)
        if channels > MAX_CHANNELS:
            raise checker.wrong(f"gives {channels} channels, at most {MAX_CHANNELS} are known")
        checker.write(self.output, ValueSpec("float", channels))

    def build(self, builder: Builder) -> ConcatStep:
        sources = [builder.values[value] for value in self.inputs]
        shape = sources[0].height, sources[0].width
        for source in sources:
            if (source.height, source.width) != shape:
                raise builder.invalid(
                    f"puts maps of {shape[0]}x{shape[1]} and {source.height}x{source.width} "
                    "pixels together"
                )
        builder.write(
            shape,
            max(builder.bounds[value] for value in self.inputs),
            max(builder.ranges[value] for value in self.inputs),
        )
        return ConcatStep(self.name, self.inputs, self.output)


@dataclass(frozen=True)
class ConcatStep(Step):
    """The channels of several float values of one height and width, one after the other."""

    name: str
    inputs: tuple[int, ...]
    output: int

    @property
    def reads(self) -> tuple[int, ...]:
        return self.inputs

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def run(self, program: Program, values: Values) -> None:
        values.append(np.concatenate([values[value] for value in self.inputs], axis=-1))

    def bind_cpu(self, to: Any) -> None:
        to.program.concat(inputs=list(self.inputs), output=self.output)

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.concat import concat

        inputs, out = [to.values[value] for value in self.inputs], to.values[self.output]
        return GpuCall(lambda: concat(inputs, out))
