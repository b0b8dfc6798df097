"""The numbers that a convolution multiplies: weights, limits and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed.integers import WEIGHT_LIMIT
from rsquant.packed.plan import IMAGE_LIMIT, IMAGE_WEIGHT

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.ops.conv import ConvSpec
    from rsquant.packed.program import Value


@dataclass(frozen=True)
class Numbers:
    """What a convolution multiplies.

    Attributes:
        weight: whole numbers, int16, or bit planes beside a basis.
        weight_limit, input_limit: no number is larger in size.
        reach: (O,) float64: no sum is larger in size.
        unit: of the input's numbers.
        basis, offset: of weights in bit planes.
        input_basis: of the levels it reads.
        inverse_step: of float values, which it reads in fixed point.
    """

    weight: NDArray[Any]
    weight_limit: int
    input_limit: int
    reach: NDArray[np.float64]
    unit: float = 1.0
    basis: NDArray[Any] | None = None
    offset: NDArray[Any] | None = None
    input_basis: tuple[int, ...] = ()
    inverse_step: float | None = None


def image_numbers(spec: ConvSpec, builder: Builder) -> Numbers:
    """Of a convolution of the image."""
    weight = builder.packed.tensors[f"{spec.name}.weight"]
    weight_limit = IMAGE_WEIGHT
    if weight.dtype == np.int8:  # of an integer network
        weight_limit = WEIGHT_LIMIT
        weight = np.pad(weight.astype(np.int16), ((0, 0),) * 3 + ((0, 1),))
    reach = IMAGE_LIMIT * _largest_sums(weight)
    return Numbers(weight, weight_limit, IMAGE_LIMIT, reach)


def numbers_of(spec: ConvSpec, builder: Builder, source: Value) -> Numbers:
    """Of a convolution of codes, bytes or float values."""
    weight = builder.packed.tensors[f"{spec.name}.weight"]
    basis, offset, inverse_step = None, None, None
    input_basis: tuple[int, ...] = ()
    if has_whole_weight(spec.name, builder.packed.tensors):
        weight = weight.astype(np.int16)
    else:
        basis, offset = builder.packed.weight_digits[spec.name]
    # Of a basis of zeros, 1 is a limit too, and kernels need one.
    weight_limit = max(1, builder.packed.weight_limits[spec.name])
    quantizer = builder.packed.values[spec.input].quantizer
    if source.kind == "float":
        input_limit = reference.fixed_limit(spec.taps, weight_limit)
        inverse_step, unit = builder.fixed_point(spec.input, input_limit)
    else:
        unit, _ = builder.unit(spec.input)
        input_limit = IMAGE_LIMIT
    if quantizer is not None:
        levels = builder.packed.plan.quantizers[quantizer]
        input_limit, input_basis = max(1, levels.limit), levels.basis
    reach = np.full(spec.out_channels, float(spec.taps * weight_limit * input_limit))
    return Numbers(
        weight, weight_limit, input_limit, reach, unit, basis, offset, input_basis, inverse_step
    )


def correction_of(
    spec: ConvSpec, builder: Builder, numbers: Numbers, fill: int
) -> NDArray[np.int32]:
    """What products with the number that stands for 0 add to each sum."""
    sums = builder.packed.weight_sums.get(spec.name)
    if numbers.basis is None and fill:
        sums = numbers.weight.sum((1, 2, 3), dtype=np.int64)
    if sums is None or not fill:
        return np.zeros(spec.out_channels, np.int32)
    return np.asarray(fill * sums, np.int32)


def has_whole_weight(name: str, tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a convolution that does not read the image has int8 weights, not bit planes."""
    weight = tensors.get(f"{name}.weight")
    whole = weight is not None and weight.dtype == np.int8
    return whole and f"{name}.basis" not in tensors


def _largest_sums(weight: NDArray[np.int16]) -> NDArray[np.float64]:
    """(O,): the largest size of a row's sum of inputs 0 to 1 times weights (O, ...)."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest: NDArray[np.float64] = np.maximum(rows.clip(min=0).sum(1), -rows.clip(max=0).sum(1))
    return largest
