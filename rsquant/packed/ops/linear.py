"""The classifier, the last operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed import integers
from rsquant.packed.fields import Fields
from rsquant.packed.integers import WEIGHT_LIMIT
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.plan import LAST_VALUE, MAX_CHANNELS, MAX_LEVEL

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program


@dataclass(frozen=True)
class LinearSpec(OpSpec):
    """The classifier, the last step: of float values, or of bytes or codes by integer
    arithmetic. Which of them, its input says.
    """

    OP = "linear"

    name: str
    input: int
    output: int
    in_features: int
    out_features: int

    @classmethod
    def read(cls, fields: Fields, name: str) -> LinearSpec:
        return cls(
            name=name,
            input=fields.integer("input", 0, LAST_VALUE),
            output=fields.integer("output", 1, LAST_VALUE),
            in_features=fields.integer("in_features", 1, MAX_CHANNELS),
            out_features=fields.integer("out_features", 1, MAX_CHANNELS),
        )

    @classmethod
    def lower(cls, op: Any, to: Any) -> LinearSpec:
        value = to.float_of(op.inputs[0], op.name)
        layer = op.module
        return cls(to.layer(op), value, to.write_float(op), layer.in_features, layer.out_features)

    def check(self, checker: Checker) -> None:
        source = checker.read_map(self.input, bytes_too=True)
        if source.kind != "float":
            checker.integers()
        if source.channels != self.in_features:
            raise checker.wrong(f"reads {source.channels} channels, in_features={self.in_features}")
        classes = checker.plan.network.num_classes
        if self.out_features != classes:
            raise checker.wrong(f"gives {self.out_features} logits for {classes} classes")
        name = f"{self.name}.weight"
        weight = checker.tensor(name, np.int8, (self.out_features, self.in_features))
        limit = MAX_LEVEL if source.kind == "float" else WEIGHT_LIMIT
        # Not of absolute values: -128 has none in int8, and wider copies are 8 times the weights.
        if weight.max() > limit or weight.min() < -limit:
            raise checker.wrong(f"'{name}' has values beyond {limit} in size")
        checker.scales(self.name, self.out_features, bias=True)
        checker.write(self.output, ValueSpec("float", self.out_features))

    def build(self, builder: Builder) -> LinearStep | ByteLinearStep:
        source = builder.values[self.input]
        if (source.height, source.width) != (1, 1):
            raise builder.invalid(f"reads a map of {source.height}x{source.width} pixels, not 1")
        weight, scale, bias = (
            builder.packed.tensors[f"{self.name}.{part}"] for part in ("weight", "scale", "bias")
        )
        if source.kind != "float":
            unit, zero = builder.unit(self.input)
            slope, shift = integers.slope_and_shift(scale, unit, bias, None, 0.0)
            # No sum is larger than 65,536 products of 255 and 64, which is below 2^30.
            builder.exact_floats(slope, shift, 1.0, integers.BIAS_LIMIT)
            factor, moved = integers.multiplier_and_bias(slope, shift)
            builder.write((1, 1))
            return ByteLinearStep(self.name, self.input, self.output, weight, factor, moved, zero)
        # |acc| m / limit <= C 127 m, and half a unit of rounding in each product.
        reach = 2 * self.in_features * MAX_LEVEL * builder.bounds[self.input]
        builder.finite(reach)
        builder.finite(reach * float(scale.max()) + float(np.abs(bias).max()))
        builder.write((1, 1), reach, reach)
        return LinearStep(self.name, self.input, self.output, weight, scale, bias)


@dataclass(frozen=True)
class LinearStep(Step):
    """The classifier, on a float value of one pixel; see `kernels.reference.linear`.

    Attributes:
        weight: (O, C) int8. scale, bias: (O,) float32.
    """

    name: str
    input: int
    output: int
    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def madds(self, program: Program) -> int:
        return self.weight.size

    def run(self, program: Program, values: Values) -> None:
        x = values[self.input][:, 0, 0]
        logits = reference.linear(x, self.weight, self.scale, self.bias)
        values.append(logits[:, None, None])

    def bind_cpu(self, to: Any) -> None:
        to.program.linear(
            input=self.input,
            output=self.output,
            limit=reference.linear_limit(self.weight.shape[1]),
            weight=self.weight,
            scale=self.scale,
            bias=self.bias,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.linear import linear

        x, out = to.values[self.input][:, 0, 0], to.values[self.output][:, 0, 0]
        weight, scale, bias = to.kept(self.name, self.weight, self.scale, self.bias)
        macs = len(x) * self.weight.shape[0] * self.weight.shape[1]
        moved = weight.nbytes + scale.nbytes + bias.nbytes
        return GpuCall(lambda: linear(x, weight, scale, bias, out), moved, macs)


@dataclass(frozen=True)
class ByteLinearStep(Step):
    """The classifier on bytes or codes of one pixel.

        logit = factor * float32(sum of weight * (byte - zero) + bias)        `integers.scaled`

    Attributes:
        weight: (O, C) int8, at most 64 in size. factor, bias: (O,) float32 and int32.
    """

    name: str
    input: int
    output: int
    weight: NDArray[np.int8]
    factor: NDArray[np.float32]
    bias: NDArray[np.int32]
    zero: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input,)

    @property
    def writes(self) -> tuple[int, ...]:
        return (self.output,)

    def madds(self, program: Program) -> int:
        return self.weight.size

    def run(self, program: Program, values: Values) -> None:
        codes = values[self.input][:, 0, 0].astype(np.int64) - self.zero
        n = codes @ self.weight.T.astype(np.int64)
        values.append(integers.scaled(n, self.factor, self.bias)[:, None, None])

    def bind_cpu(self, to: Any) -> None:
        to.program.byte_linear(
            input=self.input,
            output=self.output,
            weight=self.weight,
            factor=self.factor,
            bias=self.bias,
            zero=self.zero,
        )

    def bind_gpu(self, to: Any) -> GpuCall:
        from rsquant.kernels.gpu.byte_linear import byte_linear, signed_bias

        x, out = to.values[self.input][:, 0, 0], to.values[self.output][:, 0, 0]
        bias = signed_bias(self.weight, self.bias, self.zero)
        # Scales of bytes are those of the size, weights the same at every one.
        (weight,), factor, moved = (
            to.kept(self.name, self.weight),
            to.put(self.factor),
            to.put(bias),
        )
        macs, basis = len(x) * weight.numel(), to.basis(self.input)
        return GpuCall(
            lambda: byte_linear(x, weight, factor, moved, out, basis),
            weight.nbytes + factor.nbytes + moved.nbytes,
            macs,
        )
