"""Where a graph on bytes rounds what the float graph does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from rsquant.export.chains import Chain
from rsquant.export.int8.levels import Levels
from rsquant.export.int8.staircase import Bytes


@dataclass(frozen=True)
class Point:
    """A tensor that is bytes in one graph and float32 in the other.

    Attributes:
        value: name in the float graph, of what its readers read.
        source: name in the float graph of what is rounded to it; `value` itself unless a
            quantizer lies between.
        bytes: the tensor in the graph on bytes; value = scale * (byte - zero).
        thresholds, levels: (L - 1,) and L, by which the bytes were made; None for plain rounding.
        chain: the quantizer that they stand for.
        of_bytes: a quantizer that reads `source` rounded to bytes; one that ran before these were
            made reads it in float32.
    """

    value: str
    source: str
    bytes: Bytes
    thresholds: NDArray[np.float64] | None = None
    levels: Levels | None = None
    chain: Chain | None = None
    of_bytes: bool = False


@dataclass(frozen=True)
class Rounded:
    """What the integers of a convolution stand for.

    Attributes:
        weight, bias: (O, ...) and (O,) values. weight_step, bias_step: (O,) between two integers.
        steps: (O,) size of the bias in steps, a quantizer's shift included.
        shift: what the file adds to the bias for the quantizer that follows.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    weight_step: NDArray[np.float64]
    bias_step: NDArray[np.float64]
    steps: NDArray[np.int32]
    shift: float


@dataclass
class Int8Graph:
    """What `int8.to_int8` makes.

    Attributes:
        proto: the graph on bytes.
        reference: the float graph with the weights and biases that the integers stand for: given
            the same bytes it computes the same sums.
        points: where `proto` rounds, in the order it does.
        rounded: by the name of a convolution's result, its integers.
    """

    proto: onnx.ModelProto
    reference: onnx.ModelProto
    points: list[Point] = field(default_factory=list)
    rounded: dict[str, Rounded] = field(default_factory=dict)
