"""A packed network and an image size to a program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import ModelError, PackedFileError
from rsquant.kernels import reference
from rsquant.packed import fold
from rsquant.packed.check import IMAGE_LIMIT, IMAGE_WEIGHT
from rsquant.packed.fields import FieldError
from rsquant.packed.file import Packed
from rsquant.packed.plan import (
    MAX_LEVEL,
    MAX_SIDE,
    AvgPoolSpec,
    ConvSpec,
    EpilogueSpec,
    LinearSpec,
    MapSpec,
    MaxPoolSpec,
    StepSpec,
)
from rsquant.padding import Pads, output_side, pads_at
from rsquant.runtime.program import (
    AvgPoolStep,
    ConvStep,
    Epilogue,
    LinearStep,
    MapStep,
    MaxPoolStep,
    Pair,
    Program,
    Step,
    Value,
)
from rsquant.settings import blend, side

# Of all values of one image together. A ResNet-50 reaches it at 3000 x 3000 pixels.
MAX_ELEMENTS = 2**31
# Floats stay far from overflow, so that no infinity and no NaN needs handling anywhere.
MAX_FLOAT = 1e37
# What a BatchNorm gives lies, in its standard deviations, within this of its mean, all but surely:
# the fixed-point input of a convolution is limited there.
DEVIATIONS = 32.0

Float64Array = NDArray[np.float64]


def build_program(packed: Packed, height: int, width: int) -> Program:
    """Fold, shape and check a network for images of one size.

    A size that was not trained uses BatchNorms blended between its neighbours', as
    `SwitchableNetwork` does; a rectangle counts as the square of its area.

    Raises:
        ModelError: the image is so small that a map becomes empty, or too large.
        PackedFileError: values of the file could overflow at this size.
    """
    for pixels in (height, width):
        if not 1 <= pixels <= MAX_SIDE:
            raise ModelError(f"images: sides must be 1 to {MAX_SIDE} pixels, got {height}x{width}")
    try:
        return _Builder(packed, height, width).program()
    except FieldError as error:
        raise PackedFileError(
            f"{packed.path}: is not a valid packed network: {error}; pack the network again"
        ) from error


def program_at(packed: Packed, height: int, width: int, interpolate: bool) -> Program:
    """As `build_program`; without `interpolate`, ModelError for a size that is not packed."""
    sizes = packed.plan.network.resolutions
    if not interpolate and (height != width or height not in sizes):
        raise ModelError(
            f"{packed.path}: {height}x{width} is not packed (packed: "
            f"{', '.join(map(str, sizes))}); load with interpolate=True to blend its neighbours"
        )
    return build_program(packed, height, width)


class _Builder:
    """Walks the steps in order, and knows the values written so far."""

    def __init__(self, packed: Packed, height: int, width: int) -> None:
        self.packed = packed
        self.size = height, width
        self.rows = blend(packed.plan.network.settings, side(height, width))
        self.values: list[Value] = []
        # Of a float value: the largest size that is possible, and that is to be expected.
        self.bounds: list[float] = []
        self.ranges: list[float] = []
        self.elements = 0
        self.write((height, width))

    def program(self) -> Program:
        steps = tuple(self.step(step) for step in self.packed.plan.steps)
        return Program(tuple(self.values), steps, len(self.values) - 1, *self.size)

    def step(self, step: StepSpec) -> Step:
        source = self.values[step.input]
        shape = (source.height, source.width)
        if isinstance(step, ConvSpec):
            return self.conv(step, source)
        if isinstance(step, MapSpec):
            scale, shift, reach, usual = self.map_input(step, source)
            epilogue = self.epilogue(
                step, step.epilogue, scale, shift, reach, usual, shape, integers=False
            )
            return MapStep(step.name, step.input, source.channels, epilogue)
        if isinstance(step, MaxPoolSpec):
            shape, pads = self.window(step, shape)
            self.write(shape, self.bounds[step.input], self.ranges[step.input])
            return MaxPoolStep(step.name, step.input, step.output, step.kernel, step.stride, pads)
        if isinstance(step, AvgPoolSpec):
            return self.average(step, source)
        return self.linear(step, source)

    def conv(self, step: ConvSpec, source: Value) -> ConvStep:
        tensors = self.packed.tensors
        shape, pads = self.window(step, (source.height, source.width))
        weight = tensors[f"{step.name}.weight"]
        scale = tensors[f"{step.name}.scale"].astype(np.float64)
        basis = None
        input_basis: tuple[int, ...] = ()
        inverse_step = None
        if source.kind == "image":
            weight_limit, input_limit = IMAGE_WEIGHT, IMAGE_LIMIT
            reach = IMAGE_LIMIT * _largest_sums(weight)
        else:
            basis = tensors[f"{step.name}.basis"]
            # Of a basis of zeros, 1 is a limit too, and kernels need one.
            weight_limit = max(1, self.packed.weight_limits[step.name])
            quantizer = self.packed.values[step.input].quantizer
            if quantizer is None:
                input_limit = reference.fixed_limit(step.taps, weight_limit)
                inverse_step, unit = self.fixed_point(step.input, input_limit)
            else:
                spec = self.packed.plan.quantizers[quantizer]
                unit, input_limit, input_basis = spec.scale, max(1, spec.limit), spec.basis
            scale = scale * unit
            reach = np.full(step.out_channels, float(step.taps * weight_limit * input_limit))
        bias = tensors.get(f"{step.name}.bias")
        shift = np.zeros(step.out_channels) if bias is None else bias.astype(np.float64)
        sums = self.packed.weight_sums.get(step.name)
        correction = np.zeros(step.out_channels, np.int32)
        if sums is not None and source.fill:
            correction = (source.fill * sums).astype(np.int32)
        epilogue = self.epilogue(
            step, step.epilogue, scale, shift, reach, reach, shape, integers=True
        )
        return ConvStep(
            step.name,
            step.input,
            step.in_channels,
            step.out_channels,
            step.kernel,
            step.stride,
            pads,
            step.dilation,
            step.groups,
            None if basis is None else weight,
            basis,
            weight if basis is None else None,
            correction,
            weight_limit,
            input_limit,
            input_basis,
            inverse_step,
            epilogue,
        )

    def average(self, step: AvgPoolSpec, source: Value) -> AvgPoolStep:
        ones, zeros = np.ones(source.channels), np.zeros(source.channels)
        a, b = self.normed(step.norm, step.eps, ones, zeros)
        bound = float((np.abs(a) * self.bounds[step.input] + np.abs(b)).max())
        self.finite(step, bound * source.height * source.width)
        expected = self.usual(step.norm, np.abs(a) * self.ranges[step.input] + np.abs(b))
        clip = step.clip if step.relu else None
        self.write((1, 1), _clipped(bound, clip), _clipped(expected, clip))
        return AvgPoolStep(
            step.name,
            step.input,
            step.output,
            a.astype(np.float32),
            b.astype(np.float32),
            step.relu,
            np.inf if step.clip is None else step.clip,
        )

    def fixed_point(self, value: int, limit: int) -> tuple[float, float]:
        """Of a float value: 1 / step, a float32, and the step that `limit` steps cover it with."""
        largest = self.ranges[value]
        if largest < reference.SMALLEST_INPUT:  # as good as 0
            return 0.0, 0.0
        inverse = float(np.float32(limit / largest))
        return inverse, 1.0 / inverse

    def map_input(
        self, step: MapSpec, source: Value
    ) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        """scale and shift that make the input's stored numbers its values, and how large they are.

        Stored are the values themselves, or bytes level + zero.

        Returns:
            scale, shift, largest possible and largest expected size of what is stored, all (C,).
        """
        quantizer = self.packed.values[step.input].quantizer
        ones = np.ones(source.channels)
        if quantizer is None:
            return ones, 0 * ones, self.bounds[step.input] * ones, self.ranges[step.input] * ones
        spec = self.packed.plan.quantizers[quantizer]
        largest = float(spec.limit) * ones
        return spec.scale * ones, -spec.scale * spec.zero * ones, largest, largest

    def linear(self, step: LinearSpec, source: Value) -> LinearStep:
        if (source.height, source.width) != (1, 1):
            raise self.invalid(step, f"reads a map of {source.height}x{source.width} pixels, not 1")
        weight, scale, bias = (
            self.packed.tensors[f"{step.name}.{part}"] for part in ("weight", "scale", "bias")
        )
        # |acc| m / limit <= C 127 m, and half a unit of rounding in each product.
        reach = 2 * step.in_features * MAX_LEVEL * self.bounds[step.input]
        self.finite(step, reach)
        self.finite(step, reach * float(scale.max()) + float(np.abs(bias).max()))
        self.write((1, 1), reach, reach)
        return LinearStep(step.name, step.input, step.output, weight, scale, bias)

    def epilogue(
        self,
        step: ConvSpec | MapSpec,
        spec: EpilogueSpec,
        scale: Float64Array,
        shift: Float64Array,
        reach: Float64Array,
        usual: Float64Array,
        shape: Pair,
        *,
        integers: bool,
    ) -> Epilogue:
        """Fold what follows x; write its values.

        Args:
            scale, shift: (O,), such that scale x + shift is the result before the norm.
            reach, usual: (O,), the largest size of x that is possible, and that is to be expected.
            integers: x is an accumulator, so integer thresholds may be used.
        """
        scale, shift = self.normed(spec.norm, spec.eps, scale, shift)
        bound = float((np.abs(scale) * reach + np.abs(shift)).max())
        expected = self.usual(spec.norm, np.abs(scale) * usual + np.abs(shift))
        if spec.add is not None:
            other = self.values[spec.add]
            if (other.height, other.width) != shape:
                raise self.invalid(
                    step, f"adds maps of {other.height}x{other.width} and {shape[0]}x{shape[1]}"
                )
            bound += self.bounds[spec.add]
            expected += self.ranges[spec.add]
        self.finite(step, bound)
        integer = integers and spec.add is None and spec.keep is None
        if spec.keep is not None:
            clip = spec.clip if spec.relu else None
            self.write(shape, _clipped(bound, clip), _clipped(expected, clip))
        thresholds, sign, levels = self.codes(spec, scale, shift, integer)
        if spec.codes is not None:
            self.write(shape)
        return Epilogue(
            scale.astype(np.float32),
            shift.astype(np.float32),
            spec.add,
            spec.relu,
            np.inf if spec.clip is None else spec.clip,
            spec.keep,
            spec.codes,
            integer,
            thresholds,
            sign,
            levels,
        )

    def codes(
        self, spec: EpilogueSpec, scale: Float64Array, shift: Float64Array, integer: bool
    ) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int8], NDArray[np.uint8]]:
        """Thresholds, signs and levels of the codes of scale x + shift (+ add)."""
        channels = len(scale)
        if spec.quantizer is None:
            empty = np.zeros((0, channels), np.float32)
            return empty, np.ones(channels, np.int8), np.zeros(0, np.uint8)
        quantizer = self.packed.plan.quantizers[spec.quantizer]
        moved = fold.of_quantizer(quantizer)
        moved = fold.before_clip(moved, spec.codes_relu, spec.codes_clip)
        if spec.codes_norm is not None:
            a, b = self.normed(spec.codes_norm, spec.codes_eps, np.ones(1), np.zeros(1))
            moved = fold.before_affine(moved, a, b)
        moved = fold.before_clip(moved, spec.relu, spec.clip)
        if integer:
            moved = fold.before_affine(moved, scale, shift)
        thresholds = np.broadcast_to(moved[0], (len(moved[0]), channels))
        sign = np.broadcast_to(moved[1], channels).astype(np.int8)
        if integer:
            return fold.to_integers(thresholds), sign, quantizer.codes
        return fold.to_float32(thresholds), sign, quantizer.codes

    def normed(
        self, name: str | None, eps: float, scale: Float64Array, shift: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """A norm after scale x + shift, at this size."""
        if name is None:
            return scale, shift
        a, b = fold.affine(fold.blended(self.packed.tensors[name], self.rows), eps)
        return a * scale, a * shift + b

    def usual(self, name: str | None, sizes: Float64Array) -> float:
        """The largest size to be expected behind a norm, for `sizes` (O,) without knowing it.

        A norm gives each channel the mean beta and the standard deviation |gamma|.
        """
        if name is not None:
            gamma, beta = fold.blended(self.packed.tensors[name], self.rows)[:2]
            sizes = np.minimum(sizes, np.abs(beta) + DEVIATIONS * np.abs(gamma))
        return float(sizes.max())

    def window(self, step: ConvSpec | MaxPoolSpec, shape: Pair) -> tuple[Pair, Pads]:
        """The output's height and width, and what the input is padded with."""
        extent, stride = step.extent, step.stride
        pads = pads_at(step.padding, shape, extent, stride)
        height, width = (
            output_side(shape[i], pads[i], pads[2 + i], extent[i], stride[i]) for i in range(2)
        )
        if height < 1 or width < 1:
            raise ModelError(
                f"images of {self.size[0]}x{self.size[1]} pixels are too small: nothing is left of "
                f"them at {step.name}; use {self.packed.plan.network.stride} or more"
            )
        return (height, width), pads

    def write(self, shape: Pair, bound: float = 0.0, expected: float = 0.0) -> None:
        """Note the next value; floats with the largest size they can have, and are to have."""
        spec = self.packed.values[len(self.values)]
        fill = 0
        if spec.quantizer is not None:
            fill = self.packed.plan.quantizers[spec.quantizer].zero
        self.values.append(Value(spec.kind, spec.channels, *shape, fill))
        self.bounds.append(bound)
        self.ranges.append(expected)
        self.elements += spec.channels * shape[0] * shape[1]
        if self.elements > MAX_ELEMENTS:
            raise ModelError(
                f"images of {self.size[0]}x{self.size[1]} pixels are too large for this network: "
                f"more than {MAX_ELEMENTS} values; use smaller ones"
            )

    def finite(self, step: StepSpec, bound: float) -> None:
        if not bound <= MAX_FLOAT:
            raise self.invalid(step, "its values can overflow")

    def invalid(self, step: StepSpec, what: str) -> FieldError:
        return FieldError(f"{step.name:.60}: {what}")


def _largest_sums(weight: NDArray[np.int16]) -> Float64Array:
    """(O,): the largest size of a row's sum of inputs 0 to 1 times weights (O, ...)."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest: Float64Array = np.maximum(rows.clip(min=0).sum(1), -rows.clip(max=0).sum(1))
    return largest


def _clipped(size: float, clip: float | None) -> float:
    """Largest size of min(max(x, 0), clip)."""
    return size if clip is None else min(size, clip)
