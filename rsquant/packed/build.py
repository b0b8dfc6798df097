"""A packed network and an image size to a program."""

from __future__ import annotations

import numpy as np

from rsquant.errors import ModelError, PackedFileError
from rsquant.kernels import reference
from rsquant.packed import fold, integers
from rsquant.packed.fields import FieldError, Pair
from rsquant.packed.file import Packed
from rsquant.packed.ops.base import Float64Array
from rsquant.packed.plan import MAX_SIDE
from rsquant.packed.program import Program, Value
from rsquant.settings import blend, side

# Of all values of one image together. A ResNet-50 reaches it at 3000 x 3000 pixels.
MAX_ELEMENTS = 2**31
# Floats stay far from overflow, so that no infinity and no NaN needs handling anywhere.
MAX_FLOAT = 1e37
# What a BatchNorm gives lies, in its standard deviations, within this of its mean, all but surely:
# the fixed-point input of a convolution is limited there.
DEVIATIONS = 32.0


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
        return Builder(packed, height, width).program()
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


class Builder:
    """What operations are shaped and folded with; it knows the values written so far.

    Attributes:
        packed: the file.
        values: by number, the image first.
        bounds, ranges: by number, of a float value: the largest size that is possible, and that is
            to be expected.
        where: name of the step, for messages.
    """

    def __init__(self, packed: Packed, height: int, width: int) -> None:
        self.packed = packed
        self.size = height, width
        self.rows = blend(packed.plan.network.settings, side(height, width))
        self.values: list[Value] = []
        self.bounds: list[float] = []
        self.ranges: list[float] = []
        self.where = ""
        self._elements = 0
        self.write((height, width))

    def program(self) -> Program:
        steps = []
        for spec in self.packed.plan.steps:
            self.where = spec.name
            steps.append(spec.build(self))
        return Program(
            tuple(self.values),
            tuple(steps),
            len(self.values) - 1,
            *self.size,
            self.packed.plan.gives_maps,
        )

    def write(self, shape: Pair, bound: float = 0.0, expected: float = 0.0) -> None:
        """Note the next value; floats with the largest size they can have, and are to have."""
        spec = self.packed.values[len(self.values)]
        fill, basis = spec.zero, tuple[int, ...]()
        if spec.kind == "image":
            fill = self.packed.plan.network.zero or 0
        if spec.quantizer is not None:
            quantizer = self.packed.plan.quantizers[spec.quantizer]
            fill, basis = quantizer.zero, tuple(sorted(map(abs, quantizer.basis)))
        self.values.append(Value(spec.kind, spec.channels, *shape, fill, basis))
        self.bounds.append(bound)
        self.ranges.append(expected)
        self._elements += spec.channels * shape[0] * shape[1]
        if self._elements > MAX_ELEMENTS:
            raise ModelError(
                f"images of {self.size[0]}x{self.size[1]} pixels are too large for this network: "
                f"more than {MAX_ELEMENTS} values; use smaller ones"
            )

    def byte_scale(self, name: str) -> float:
        """The scale of bytes at this size, of a tensor (S,)."""
        return float(fold.blended(self.packed.tensors[name][None], self.rows)[0])

    def unit(self, value: int) -> tuple[float, int]:
        """Scale and zero point of codes or bytes: value = scale * (byte - zero)."""
        spec = self.packed.values[value]
        if spec.scale is not None:
            return self.byte_scale(spec.scale), spec.zero
        if spec.quantizer is None:
            raise ValueError(f"{self.where}: floats have no zero point")
        quantizer = self.packed.plan.quantizers[spec.quantizer]
        return quantizer.scale, quantizer.zero

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

    def fixed_point(self, value: int, limit: int) -> tuple[float, float]:
        """Of a float value: 1 / step, a float32, and the step that `limit` steps cover it with."""
        largest = self.ranges[value]
        if largest < reference.SMALLEST_INPUT:  # as good as 0
            return 0.0, 0.0
        inverse = float(np.float32(limit / largest))
        return inverse, 1.0 / inverse

    def finite(self, bound: float) -> None:
        """Refuse values as large as this, where float32 ends."""
        if not bound <= MAX_FLOAT:
            raise self.invalid("its values can overflow")

    def exact_floats(
        self,
        slope: Float64Array,
        shift: Float64Array,
        step: float,
        largest: int = integers.SUM_LIMIT,
    ) -> None:
        """Refuse slope n + shift in steps of `step` where it is as large, for |n| <= `largest`."""
        step = max(step, integers.LEAST_STEP)
        self.finite(2 * float((np.abs(slope) * largest + np.abs(shift)).max()) / step)

    def invalid(self, what: str) -> FieldError:
        """The error of the step that is built."""
        return FieldError(f"{self.where:.60}: {what}")

    def wrong_size(self, what: str) -> ModelError:
        """The error of images whose size this step has no use for."""
        return ModelError(
            f"images of {self.size[0]}x{self.size[1]} pixels have no size of this network: "
            f"{self.where} {what}; use another size"
        )

    def too_small(self) -> ModelError:
        """The error of images that nothing is left of at this step."""
        return ModelError(
            f"images of {self.size[0]}x{self.size[1]} pixels are too small: nothing is left of "
            f"the map at {self.where}; use {self.packed.plan.network.stride} or more"
        )
