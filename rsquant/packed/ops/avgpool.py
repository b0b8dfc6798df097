"""The mean of a whole map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed.fields import Fields
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values
from rsquant.packed.ops.byte_average import (
    ByteAverageStep,
    ByteOutput,
    byte_average,
    json_with_output,
)
from rsquant.packed.ops.epilogue import clipped, read_eps
from rsquant.packed.ops.window import is_whole_map, output_size
from rsquant.packed.plan import INTEGERS, LAST_VALUE

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class AvgPoolSpec(OpSpec):
    """Mean over all pixels of clip(relu(norm(x))), or of bytes or codes.

    Attributes:
        bytes: what it makes of bytes or codes; None for floats.
    """

    OP = "avgpool"
    TORCH = (
        "torch.nn.AdaptiveAvgPool2d",
        "torch.nn.functional.adaptive_avg_pool2d",
        "torch.mean",
        ".mean",
    )

    name: str
    input: int
    output: int
    norm: str | None
    eps: float
    relu: bool
    clip: float | None
    bytes: ByteOutput | None = None

    @property
    def needs(self) -> int:
        return self.SINCE if self.bytes is None else INTEGERS

    def to_json(self) -> dict[str, Any]:
        return json_with_output(self)

    @classmethod
    def read(cls, fields: Fields, name: str) -> AvgPoolSpec:
        norm = fields.text_or_none("norm")
        return cls(
            name=name,
            input=fields.integer("input", 0, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            norm=norm,
            eps=read_eps(fields, "eps", norm),
            relu=fields.flag("relu"),
            clip=fields.real_or_none("clip", 0.0),
            bytes=ByteOutput.read(fields),
        )

    @classmethod
    def trace(cls, call: Any) -> Any:
        # Not where files are read: few need it.
        from rsquant.packed.ops.adaptive_avgpool import AdaptiveAvgPoolSpec

        if call.what != "mean":
            if output_size(call) != (1, 1):
                return AdaptiveAvgPoolSpec.trace(call)
        else:
            dims = call.argument(1, "dim", None)
            if not is_whole_map(dims):
                call.refuse(f"is a mean over {dims}", "average the whole map: mean([2, 3])")
        return call.op(cls.OP, (call.input(),), pixels=(1, 1))

    @classmethod
    def whole(cls, call: Any) -> Any:
        """Of `avg_pool2d` with windows as large as the map, which have no room to slide."""
        if call.argument(3, "padding", 0) not in (0, (0, 0), [0, 0]):
            call.refuse("averages the whole map and a padding", "average without padding")
        if call.argument(6, "divisor_override", None) is not None:
            call.refuse("averages the whole map with a divisor", "leave the divisor out")
        return call.op(cls.OP, (call.input(),), pixels=(1, 1))

    @classmethod
    def lower(cls, op: Any, to: Any) -> AvgPoolSpec:
        # A norm and a relu before it that are no part of another step, in their order.
        chain: list[Any] = []
        source = op.inputs[0]
        for kind in ("relu", "norm"):
            if source.kind == kind and source not in to.taken:
                chain.insert(0, source)
                source = source.inputs[0]
        norm, eps, relu, clip = None, 0.0, False, None
        for part in chain:
            to.taken.add(part)
            if part.kind == "norm":
                norm, eps = to.norm(part)
            else:
                relu, clip = True, part.clip
        value = to.float_of(source, op.name)
        return cls(to.name(op.name), value, to.write_float(op), norm, eps, relu, clip)

    def check(self, checker: Checker) -> None:
        if self.bytes is not None:
            if self.norm is not None or self.relu or self.clip is not None:
                raise checker.wrong("averages bytes as they are, without norm and relu")
            self.bytes.check(checker, self.input, self.output)
            return
        source = checker.read_float(self.input)
        checker.norm(self.norm, source.channels)
        checker.write(self.output, source)

    def build(self, builder: Builder) -> AvgPoolStep | ByteAverageStep:
        source = builder.values[self.input]
        if self.bytes is not None:
            rows, columns = (np.array([[0, n]], np.int32) for n in (source.height, source.width))
            pixels = np.full((1, 1), source.height * source.width)
            return byte_average(
                builder, self.name, self.input, self.output, self.bytes, rows, columns, pixels
            )
        ones, zeros = np.ones(source.channels), np.zeros(source.channels)
        a, b = builder.normed(self.norm, self.eps, ones, zeros)
        bound = float((np.abs(a) * builder.bounds[self.input] + np.abs(b)).max())
        builder.finite(bound * source.height * source.width)
        expected = builder.usual(self.norm, np.abs(a) * builder.ranges[self.input] + np.abs(b))
        clip = self.clip if self.relu else None
        builder.write((1, 1), clipped(bound, clip), clipped(expected, clip))
        return AvgPoolStep(
            name=self.name,
            input=self.input,
            output=self.output,
            scale=a.astype(np.float32),
            shift=b.astype(np.float32),
            relu=self.relu,
            clip=np.inf if self.clip is None else self.clip,
        )


@dataclass(frozen=True)
class AvgPoolStep(Step):
    """Mean over all pixels of min(max(scale * x + shift, 0) if relu, clip), float32.

    Summed in the order of rows, one accumulator per channel, then times float32(1 / pixels).
    """

    name: str
    input: int
    output: int
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    relu: bool
    clip: float

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    @property
    def low(self) -> float:
        """No value is smaller before the mean."""
        return 0.0 if self.relu else -np.inf

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input]
        values.append(reference.average_pool(x, self.scale, self.shift, self.relu, self.clip))

    def bind_cpu(self, to: Any) -> None:
        to.program.average_pool(
            input=self.input,
            output=self.output,
            scale=self.scale,
            shift=self.shift,
            low=self.low,
            high=self.clip,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.pool import average_pool

        x, out = to.values[self.input], to.values[self.output]
        scale, shift = to.put(self.scale), to.put(self.shift)
        return GpuCall(
            lambda: average_pool(x, scale, shift, self.low, self.clip, out),
            scale.nbytes + shift.nbytes,
        )
