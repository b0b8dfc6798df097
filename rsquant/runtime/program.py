"""A packed network made ready for one image size: shaped, folded, nothing left to look up.

A program is plain data. `runtime/reference.py` runs it slowly and says what it means; the compiled
kernels run the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsquant.padding import Pads

Pair = tuple[int, int]


@dataclass(frozen=True)
class Value:
    """What one step writes and later ones read, (height, width, channels) per image.

    Attributes:
        kind: "image": uint8, R, G, B and a fourth channel of 255. "codes": uint8, level + zero of
            one quantizer. "float": float32.
        fill: the byte that stands for the value 0, and pads a convolution's input; 0 for "image"
            and "float".
    """

    kind: Literal["image", "codes", "float"]
    channels: int
    height: int
    width: int
    fill: int


@dataclass(frozen=True)
class Epilogue:
    """What happens to a result x (an accumulator, or the input of a map) before it is stored.

        v = scale * x + shift;  v = v + add;
        keep:  min(max(v, 0) if relu, clip)
        codes: levels[number of k with sign * u > thresholds[k]], u = x if `integer`, else v

    All float32, one rounding per operation. `u` is taken before relu and clip, which the
    thresholds hold already.

    Attributes:
        scale, shift: (O,) float32.
        add: a float value of the result's shape, or None.
        clip: inf where there is none.
        keep, codes: the values written; at least one is not None.
        integer: thresholds are (L - 1, O) int32 for the accumulator; else float32 for v.
        sign: (O,) int8, +1 or -1.
        levels: (L,) uint8, ascending; empty (as are thresholds and sign) without codes.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    add: int | None
    relu: bool
    clip: float
    keep: int | None
    codes: int | None
    integer: bool
    thresholds: NDArray[np.int32] | NDArray[np.float32]
    sign: NDArray[np.int8]
    levels: NDArray[np.uint8]


@dataclass(frozen=True)
class ConvStep:
    """A convolution of the image (`image_weight`), or of codes or floats (`planes` and so on).

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
        image_weight: (O, kh, kw, 4) int16.
        correction: (O,) int32, fill * sum of the channel's weight levels.
        weight_limit: no weight level is larger in size.
        input_limit: no number is larger in size.
        input_basis: the input's bytes are fill + sums of subsets of these; empty for the image
            and for floats.
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
    image_weight: NDArray[np.int16] | None
    correction: NDArray[np.int32]
    weight_limit: int
    input_limit: int
    input_basis: tuple[int, ...]
    inverse_step: float | None
    epilogue: Epilogue


@dataclass(frozen=True)
class MapStep:
    """An elementwise step; x is the input's float, or its byte as a float. Never `integer`."""

    name: str
    input: int
    channels: int
    epilogue: Epilogue


@dataclass(frozen=True)
class MaxPoolStep:
    """Largest value of each window, of codes (bytes ascend with levels) or floats.

    The padding, above, left, below and right, never wins.
    """

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Pads


@dataclass(frozen=True)
class AvgPoolStep:
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


@dataclass(frozen=True)
class LinearStep:
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


Step = ConvStep | MapStep | MaxPoolStep | AvgPoolStep | LinearStep


@dataclass(frozen=True)
class Program:
    """Steps in the order they run. Value 0 is the image; `logits` is the value they end in."""

    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    logits: int
    height: int
    width: int
