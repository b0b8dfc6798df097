"""A convolution of the image, of codes or of float values, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed import weight_levels
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.integers import WEIGHT_LIMIT
from rsquant.packed.ops.base import GpuCall, OpSpec, Step, Values, ValueSpec
from rsquant.packed.ops.conv_numbers import (
    correction_of,
    has_whole_weight,
    image_numbers,
    numbers_of,
)
from rsquant.packed.ops.epilogue import EpilogueSpec, json_with_epilogue
from rsquant.packed.ops.integer_epilogue import (
    AnyEpilogue,
    AnyEpilogueSpec,
    IntegerEpilogueSpec,
    read_epilogue,
)
from rsquant.packed.ops.window import check_padding, reaches, read_padding, version_for, window
from rsquant.packed.plan import (
    BYTE_MAPS,
    FLOAT_INPUTS,
    IMAGE_CHANNELS,
    IMAGE_LIMIT,
    IMAGE_WEIGHT,
    INTEGERS,
    LAST_VALUE,
    MAPS,
    MAX_BITS,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_LEVEL,
    OFFSETS,
    plane_bytes,
)
from rsquant.padding import Padding, Pads, extent_of

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

_INT32 = 2**31 - 1


@dataclass(frozen=True)
class ConvSpec(OpSpec):
    """A convolution of the image (int16 weights, or int8 of an integer network), or of codes, bytes
    or float values (bit planes, or int8 weights: of a head that gives a map; only such a head gives
    floats of bytes)."""

    OP = "conv"

    name: str
    input: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int
    epilogue: AnyEpilogueSpec

    @property
    def extent(self) -> Pair:
        """Pixels that a window spans."""
        return extent_of(self.kernel, self.dilation)

    @property
    def taps(self) -> int:
        """Products per output value."""
        return self.kernel[0] * self.kernel[1] * (self.in_channels // self.groups)

    @property
    def needs(self) -> int:
        integer = isinstance(self.epilogue, IntegerEpilogueSpec)
        return INTEGERS if integer else version_for(self.padding, FLOAT_INPUTS)

    @classmethod
    def read(cls, fields: Fields, name: str) -> ConvSpec:
        source = fields.integer("input", 0, LAST_VALUE)
        in_channels = fields.integer("in_channels", 1, MAX_CHANNELS)
        out_channels = fields.integer("out_channels", 1, MAX_CHANNELS)
        kernel = fields.pair("kernel", 1, MAX_KERNEL)
        stride = fields.pair("stride", 1, MAX_KERNEL)
        dilation = fields.pair("dilation", 1, MAX_KERNEL)
        padding = read_padding(fields)
        groups = fields.integer("groups", 1, MAX_CHANNELS)
        if in_channels % groups or out_channels % groups:
            raise FieldError(
                f"{fields.where}: groups must divide the channels, got groups={groups}, "
                f"in_channels={in_channels}, out_channels={out_channels}"
            )
        step = cls(
            name=name,
            input=source,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            epilogue=read_epilogue(fields),
        )
        if reaches(padding, step.extent):
            raise FieldError(f"{fields.where}: padding must be smaller than the (dilated) kernel")
        return step

    def to_json(self) -> dict[str, Any]:
        return json_with_epilogue(self, self.epilogue.KEEPS)

    @classmethod
    def takes_padding(cls, op: Any, zeros: Pads | str, filler: float, positive: bool) -> bool:
        return filler == 0

    def check(self, checker: Checker) -> None:
        source = checker.read(self.input)
        check_padding(checker, self.padding)
        if source.kind == "float":
            what = f"needs the image or codes, {self.input} is float, which convolutions read"
            checker.since(FLOAT_INPUTS, what)
        if source.channels != self.in_channels:
            raise checker.wrong(f"reads {source.channels} channels, in_channels={self.in_channels}")
        integer = isinstance(self.epilogue, IntegerEpilogueSpec)
        whole = has_whole_weight(self.name, checker.tensors)
        gives = integer or (source.kind == "bytes" and whole)
        if (source.kind == "float" and integer) or (source.kind == "bytes" and not gives):
            raise checker.wrong(f"{self.input} is {source.kind}, and its epilogue has the other")
        if source.kind == "image":
            if self.groups != 1:
                raise checker.wrong("a convolution of the image has one group")
            zero = checker.plan.network.zero
            if integer == (zero is None):
                raise checker.wrong("the image has a 'zero' where its convolutions are of integers")
            if zero is None:
                self._check_image_weight(checker)
            else:
                self._check_image_bytes(checker, max(zero, IMAGE_LIMIT - zero))
        else:
            self._check_weight(checker, source)
        checker.scales(self.name, self.out_channels, bias=source.kind == "image")
        self.epilogue.check(checker, self.out_channels)

    def _check_image_weight(self, checker: Checker) -> None:
        name = f"{self.name}.weight"
        shape = (self.out_channels, *self.kernel, IMAGE_CHANNELS)
        weight = checker.tensor(name, np.int16, shape).astype(np.int64)
        if weight.min() < -IMAGE_WEIGHT:
            raise checker.wrong(f"'{name}' has values below -{IMAGE_WEIGHT}")
        largest = int(np.abs(weight).sum((1, 2, 3)).max()) * IMAGE_LIMIT
        if largest > _INT32:
            raise checker.wrong(f"'{name}' has sums of up to {largest}, which overflow 32 bits")

    def _check_image_bytes(self, checker: Checker, largest: int) -> None:
        """Check int8 weights, of pixels of at most `largest` in size."""
        name = f"{self.name}.weight"
        shape = (self.out_channels, *self.kernel, IMAGE_CHANNELS - 1)
        weight = np.abs(checker.tensor(name, np.int8, shape).astype(np.int64))
        if weight.max() > WEIGHT_LIMIT:
            raise checker.wrong(f"'{name:.60}' has values beyond {WEIGHT_LIMIT}")
        checker.exact(int(weight.sum((1, 2, 3)).max()) * largest)

    def _check_weight(self, checker: Checker, source: ValueSpec) -> None:
        whole = has_whole_weight(self.name, checker.tensors)
        if whole and source.kind == "bytes":
            self._check_byte_maps(checker)
        limit = self._check_whole_weight(checker) if whole else self._check_levels(checker)
        # Fixed-point inputs of fewer than 8 bits would not be worth it.
        inputs = levels = MAX_LEVEL
        if source.quantizer is not None:
            quantizer = checker.plan.quantizers[source.quantizer]
            inputs = quantizer.limit
            levels = max(quantizer.zero, inputs - quantizer.zero)
        elif source.kind == "bytes":
            inputs = IMAGE_LIMIT
            levels = max(source.zero, inputs - source.zero)
            if limit > WEIGHT_LIMIT:
                raise checker.wrong(f"reads bytes with levels up to {limit}, beyond {WEIGHT_LIMIT}")
        largest = limit * inputs
        if self.taps * largest > _INT32:
            raise checker.wrong(f"{self.taps} products of up to {largest} overflow 32 bits")
        if source.kind != "float" and isinstance(self.epilogue, IntegerEpilogueSpec):
            checker.exact(self.taps * limit * levels)

    def _check_byte_maps(self, checker: Checker) -> None:
        """Check that int8 weights may be of bytes."""
        name = f"{self.name}.weight"
        checker.since(BYTE_MAPS, f"'{name:.60}' of int8 is of bytes")
        if self.in_channels == IMAGE_CHANNELS and self.groups == 1:
            # Kernels would take it for the image's.
            raise checker.wrong(
                f"'{name:.60}' of int8 cannot be of {IMAGE_CHANNELS} channels of bytes"
            )

    def _check_whole_weight(self, checker: Checker) -> int:
        """Check int8 weights in place of bit planes; the largest."""
        name = f"{self.name}.weight"
        checker.since(MAPS, f"'{name:.60}' of int8 is known")
        shape = (self.out_channels, *self.kernel, self.in_channels // self.groups)
        weight = checker.tensor(name, np.int8, shape).astype(np.int64)
        limit = checker.limits[self.name] = int(np.abs(weight).max())
        if limit > MAX_LEVEL:
            raise checker.wrong(f"'{name:.60}' has values beyond {MAX_LEVEL} in size")
        return limit

    def _check_levels(self, checker: Checker) -> int:
        """Check bit planes, bases and offsets; the largest level."""
        name = f"{self.name}.basis"
        bits = self._check_basis(checker, name).shape[1]
        if bits > MAX_BITS:
            raise checker.wrong(f"'{name}' has {bits} bits, at most {MAX_BITS} are known")
        digits = checker.digits[self.name] = weight_levels.digits(self.name, checker.tensors)
        limit = checker.limits[self.name] = weight_levels.largest(*digits)
        if limit > MAX_LEVEL:
            raise checker.wrong(f"'{name}' has levels up to {limit}, at most {MAX_LEVEL} fit")
        name = f"{self.name}.weight"
        row = plane_bytes(self.taps)
        planes = checker.tensor(name, np.uint8, (bits, self.out_channels, row))
        # The padding bits: the bytes after the last product's, and the upper bits of its own.
        whole, rest = divmod(self.taps, 8)
        spare = planes[:, :, whole + (rest > 0) :].any()
        if spare or (rest and (planes[:, :, whole] >> rest).any()):
            raise checker.wrong(f"'{name}' has padding bits that are not 0")
        return limit

    def _check_basis(self, checker: Checker, name: str) -> NDArray[Any]:
        """The basis, int8, or beside an offset int16."""
        offset = f"{self.name}.offset"
        found = checker.tensors.get(name)
        if offset not in checker.tensors:
            if found is not None and found.dtype == np.int16:
                raise checker.wrong(f"'{name:.60}' of int16 needs a tensor '{offset:.60}'")
            return checker.tensor(name, np.int8, (self.out_channels, None))
        checker.since(OFFSETS, f"'{offset:.60}' is known")
        checker.tensor(offset, np.int8, (self.out_channels,))
        return checker.tensor(name, np.int16, (self.out_channels, None))

    def build(self, builder: Builder) -> ConvStep:
        source = builder.values[self.input]
        tensors = builder.packed.tensors
        shape, pads = window(
            builder, (source.height, source.width), self.padding, self.extent, self.stride
        )
        image = source.kind == "image"
        numbers = image_numbers(self, builder) if image else numbers_of(self, builder, source)
        scale = tensors[f"{self.name}.scale"].astype(np.float64) * numbers.unit
        bias = tensors.get(f"{self.name}.bias")
        shift = np.zeros(self.out_channels) if bias is None else bias.astype(np.float64)
        epilogue: AnyEpilogue
        if isinstance(self.epilogue, EpilogueSpec):
            reach = numbers.reach
            epilogue = self.epilogue.build(
                builder, scale, shift, reach, reach, shape, integers=True
            )
        else:
            epilogue = self.epilogue.build(builder, scale, shift, shape)
        whole = numbers.basis is None
        return ConvStep(
            name=self.name,
            input=self.input,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            padding=pads,
            dilation=self.dilation,
            groups=self.groups,
            planes=None if whole else numbers.weight,
            basis=numbers.basis,
            offset=numbers.offset,
            whole_weight=numbers.weight if whole else None,
            correction=correction_of(self, builder, numbers, source.fill),
            weight_limit=numbers.weight_limit,
            input_limit=numbers.input_limit,
            input_basis=numbers.input_basis,
            inverse_step=numbers.inverse_step,
            epilogue=epilogue,
        )


@dataclass(frozen=True)
class ConvForm:
    """What decides which kernels can compute a convolution, but for the size of its input.

    Attributes:
        padding: pixels above and to the left.
        input_limit, weight_limit: no number of the input, and no weight level, is larger in size.
        weight_bits: planes of the weights; 0 where they come whole.
        input_basis: see `ConvStep`.
        real: the input is float values.
    """

    groups: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    input_limit: int
    weight_limit: int
    real: bool
    weight_bits: int
    input_basis: tuple[int, ...]


@dataclass(frozen=True)
class ConvStep(Step):
    """A convolution of the image, or of codes, bytes or floats; see the two forms of weights.

        acc = sum over the window of number * weight level - correction[o]      int32

    The number is the input's byte, or of a float x, in float32 with one rounding per operation,

        min(max(rint(x * inverse_step), -input_limit), input_limit)             half to even

    Pixels outside the input are the input value's `fill` in every channel.

    Attributes:
        in_channels: 4 where the input is the image.
        padding: pixels above, left, below and right.
        planes: (K, O, R) uint8, R = 8 * ceil(n / 64); bit i, little endian in byte i // 8, belongs
            to index i of (kh, kw, in_channels / groups); padding bits are 0.
        basis, offset: (O, K) int16 and (O,) int8;
            weight level = offset[o] + sum_k basis[o, k] * bit_k, from -127 to 127.
        whole_weight: (O, kh, kw, C / groups) int16, weight levels in place of `planes`: the image's
            (C = 4; 0 in the fourth channel of integer networks), or of at most 127 in size.
        correction: (O,) int32, fill * sum of the channel's weight levels.
        weight_limit: no weight level is larger in size.
        input_limit: no number is larger in size.
        input_basis: the input's bytes are fill + sums of subsets of these; empty where it is no
            codes.
        inverse_step: of a float input; None where the input is bytes.
    """

    name: str
    input: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pads
    dilation: Pair
    groups: int
    planes: NDArray[np.uint8] | None
    basis: NDArray[np.int16] | None
    offset: NDArray[np.int8] | None
    whole_weight: NDArray[np.int16] | None
    correction: NDArray[np.int32]
    weight_limit: int
    input_limit: int
    input_basis: tuple[int, ...]
    inverse_step: float | None
    epilogue: AnyEpilogue

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.input, *self.epilogue.reads)

    @property
    def writes(self) -> tuple[int, ...]:
        return self.epilogue.writes

    @property
    def in_place(self) -> tuple[int, int] | None:
        # The windows of a convolution of the value it adds read elements of other threads.
        return None if self.epilogue.add == self.input else self.epilogue.in_place

    @cached_property
    def form(self) -> ConvForm:
        """What decides which kernels can compute it."""
        return ConvForm(
            groups=self.groups,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding[:2],
            dilation=self.dilation,
            input_limit=self.input_limit,
            weight_limit=self.weight_limit,
            real=self.inverse_step is not None,
            weight_bits=0 if self.planes is None else len(self.planes),
            input_basis=self.input_basis,
        )

    def madds(self, program: Program) -> int:
        out = program.values[self.writes[0]]
        # An image's fourth channel is there for the mean alone.
        channels = self.in_channels - (self.input == 0)
        taps = self.kernel[0] * self.kernel[1] * channels // self.groups
        return out.height * out.width * self.out_channels * taps

    def levels(self) -> NDArray[np.int64]:
        """Weight levels, (O, kh, kw, C / groups)."""
        if self.whole_weight is not None:
            return self.whole_weight.astype(np.int64)
        if self.planes is None or self.basis is None or self.offset is None:
            raise ValueError(
                f"{self.name}: a convolution needs whole_weight, or planes, basis and offset"
            )
        shape = (self.out_channels, *self.kernel, self.in_channels // self.groups)
        taps = shape[1] * shape[2] * shape[3]
        return reference.weight_levels(self.planes, self.basis, self.offset, taps).reshape(shape)

    def accumulators(self, x: NDArray[Any], fill: int) -> NDArray[np.int32]:
        """(N, OH, OW, O) int32 of an input (N, H, W, C), the correction subtracted.

        Args:
            fill: the number of the pixels outside.
        """
        if self.inverse_step is not None:
            x = reference.fixed_point(x, self.inverse_step, self.input_limit)
        raw = reference.conv_accumulators(
            x, self.levels(), self.stride, self.padding, self.dilation, self.groups, fill
        )
        return raw - self.correction

    def run(self, program: Program, values: Values) -> None:
        fill = program.values[self.input].fill
        self.epilogue.run(self.accumulators(values[self.input], fill), values)

    def bind_cpu(self, to: Any) -> None:
        to.conv(self)

    def bind_gpu(self, to: Any) -> GpuCall:
        call: GpuCall = to.conv(self)
        return call
