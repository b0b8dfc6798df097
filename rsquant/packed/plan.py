"""What a packed file says a network does: typed, one dataclass per kind of step.

A plan is what the metadata holds, with every field of its type and in its range; whether fields
and tensors agree with each other is `check`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import Pair
from rsquant.padding import Padding, extent_of, is_pair
from rsquant.settings import Setting

FORMAT = "rsquant-packed"
VERSION = 3
# Since this version a convolution of low-bit weights may read float values.
FLOAT_INPUTS = 2
# Since this version padding may differ from side to side and from size to size.
ANY_PADDING = 3

# What int8 products and 7-bit activation bytes allow.
MAX_LEVEL = 127
MAX_BITS = 4
MAX_CHANNELS = 65536
MAX_KERNEL = 31
MAX_STEPS = 10_000
MAX_RESOLUTIONS = 64
MAX_SIDE = 65536


@dataclass(frozen=True)
class NetworkSpec:
    """What the network is, in words.

    Attributes:
        resolutions: trained sizes, largest first.
        classes: their names, or none.
        mean, std: of the pixels, 0 to 1, per channel; part of the first convolution already.
        grid: the grid its bases lie on.
        stride: pixels of the image per pixel of the last map.
    """

    arch: str
    wbits: int
    abits: int
    resolutions: tuple[int, ...]
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: str
    stride: int

    @property
    def settings(self) -> tuple[Setting, ...]:
        """A row of every BatchNorm table each."""
        return tuple(map(Setting, self.resolutions))


@dataclass(frozen=True)
class QuantizerSpec:
    """Activation levels scale * sum of a subset of `basis`, stored as bytes level + zero."""

    bits: int
    basis: tuple[int, ...]
    scale: float

    @property
    def zero(self) -> int:
        """The byte of the value 0."""
        return -sum(q for q in self.basis if q < 0)

    @property
    def limit(self) -> int:
        """The largest byte."""
        return sum(abs(q) for q in self.basis)

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """(L,) integer levels, ascending."""
        digits = (np.arange(2**self.bits)[:, None] >> np.arange(self.bits)) & 1
        return np.sort(digits @ np.array(self.basis))

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        """(L,) bytes of the levels, ascending."""
        return (self.levels + self.zero).astype(np.uint8)

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """(L - 1,) halfway between neighbouring levels, in units of the values quantized."""
        sums = (self.levels[:-1] + self.levels[1:]).astype(np.float64)
        return np.multiply(sums, 0.5 * self.scale, dtype=np.float64)


@dataclass(frozen=True)
class EpilogueSpec:
    """v = norm(x) + add; keep: clip(relu(v)); codes: quantize(codes_clip(codes_relu(codes_norm)))

    The codes are those of what `keep` would hold. `eps` belong to their norms; 0 without one.
    """

    norm: str | None = None
    eps: float = 0.0
    add: int | None = None
    relu: bool = False
    clip: float | None = None
    keep: int | None = None
    codes: int | None = None
    codes_norm: str | None = None
    codes_eps: float = 0.0
    codes_relu: bool = False
    codes_clip: float | None = None
    quantizer: int | None = None


@dataclass(frozen=True)
class ConvSpec:
    """A convolution of the image (int16 weights), or of codes or float values (bit planes)."""

    name: str
    input: int
    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int
    epilogue: EpilogueSpec

    @property
    def extent(self) -> Pair:
        """Pixels that a window spans."""
        return extent_of(self.kernel, self.dilation)

    @property
    def taps(self) -> int:
        """Products per output value."""
        return self.kernel[0] * self.kernel[1] * (self.in_channels // self.groups)


@dataclass(frozen=True)
class MapSpec:
    """An elementwise step."""

    name: str
    input: int
    epilogue: EpilogueSpec


@dataclass(frozen=True)
class MaxPoolSpec:
    """Largest value of each window; every window has pixels of the input."""

    name: str
    input: int
    output: int
    kernel: Pair
    stride: Pair
    padding: Padding

    @property
    def extent(self) -> Pair:
        """Pixels that a window spans."""
        return self.kernel


@dataclass(frozen=True)
class AvgPoolSpec:
    """Mean over all pixels of clip(relu(norm(x)))."""

    name: str
    input: int
    output: int
    norm: str | None
    eps: float
    relu: bool
    clip: float | None


@dataclass(frozen=True)
class LinearSpec:
    """The classifier, the last step."""

    name: str
    input: int
    output: int
    in_features: int
    out_features: int


StepSpec = ConvSpec | MapSpec | MaxPoolSpec | AvgPoolSpec | LinearSpec


def needed_version(steps: Sequence[StepSpec]) -> int:
    """The oldest version of the format, from 2 on, that has all that the steps need."""
    paddings = [step.padding for step in steps if isinstance(step, (ConvSpec, MaxPoolSpec))]
    return FLOAT_INPUTS if all(is_pair(padding) for padding in paddings) else ANY_PADDING


@dataclass(frozen=True)
class Plan:
    """All that a packed file holds but its tensors.

    Attributes:
        version: of the rsquant that packed it.
        format_version: of the file.
    """

    network: NetworkSpec
    quantizers: tuple[QuantizerSpec, ...]
    steps: tuple[StepSpec, ...]
    version: str
    format_version: int = VERSION
