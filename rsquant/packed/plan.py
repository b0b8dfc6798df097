"""What a packed file says a network does: typed; its operations are those of `packed.ops`.

A plan is what the metadata holds, with every field of its type and in its range; whether fields
and tensors agree with each other is `check`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.cascade import CascadeSpec
from rsquant.packed.ops.base import OpSpec
from rsquant.settings import Setting

FORMAT = "rsquant-packed"
VERSION = 8
# Since this version a convolution of low-bit weights may read float values.
FLOAT_INPUTS = 2
# Since this version padding may differ from side to side and from size to size.
ANY_PADDING = 3
# Since this version weight levels may have an offset, and quantizers thresholds of their own.
OFFSETS = 4
# Since this version a max-pooling may be dilated and count its windows upwards.
ANY_POOLING = 4
# Since this version values may be bytes, and epilogues integers.
INTEGERS = 5
# Since this version a file may hold several settings of bits.
BITS = 6

# Since this version a file may hold a cascade.
CASCADE = 6
# Since this version a file may hold several widths.
WIDTHS = 7
# Since this version a file may end in a map of logits, and any convolution have int8 weights.
MAPS = 7
# Since this version a map of bytes may be resized, and a convolution of bytes have int8 weights.
BYTE_MAPS = 8

# What int8 products and 7-bit activation bytes allow.
MAX_LEVEL = 127
MAX_BITS = 4
MAX_CHANNELS = 65536
MAX_KERNEL = 31
MAX_STEPS = 10_000
MAX_RESOLUTIONS = 64
# Widths times pairs of bits: each is checked, and takes time.
MAX_SETTINGS = 64
MAX_SIDE = 65536
# Two values at most per step, and the image.
LAST_VALUE = 2 * MAX_STEPS

IMAGE_CHANNELS = 4
IMAGE_LIMIT = 255
# Largest weight of the first convolution.
IMAGE_WEIGHT = 2**15 - 1
_WORD = 64


def plane_bytes(taps: int) -> int:
    """Bytes of one output channel in one bit plane: whole words of 64 bits."""
    return 8 * -(-taps // _WORD)


@dataclass(frozen=True)
class NetworkSpec:
    """What the network is, in words.

    Attributes:
        resolutions: trained sizes, largest first.
        classes: their names, or none.
        mean, std: of the pixels, 0 to 1, per channel; part of the first convolution already.
        grid: the grid its bases lie on.
        stride: pixels of the image per pixel of the last map.
        zero: of an integer network, the pixel that stands for 0 and pads the image.
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
    zero: int | None = None

    @property
    def settings(self) -> tuple[Setting, ...]:
        """A row of every BatchNorm table each."""
        return tuple(map(Setting, self.resolutions))


@dataclass(frozen=True)
class QuantizerSpec:
    """Activation levels scale * sum of a subset of `basis`, stored as bytes level + zero.

    Attributes:
        own_thresholds: L - 1, ascending, in units of the values quantized; None is halfway between
            neighbouring levels.
    """

    bits: int
    basis: tuple[int, ...]
    scale: float
    own_thresholds: tuple[float, ...] | None = None

    @property
    def zero(self) -> int:
        """The byte of the value 0."""
        return -sum(q for q in self.basis if q < 0)

    @property
    def limit(self) -> int:
        """The largest byte."""
        return sum(abs(q) for q in self.basis)

    @property
    def levels(self) -> NDArray[np.int64]:
        """(L,) integer levels, ascending; read-only."""
        return _levels(self.basis)

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        """(L,) bytes of the levels, ascending."""
        return (self.levels + self.zero).astype(np.uint8)

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """(L - 1,) in units of the values quantized."""
        if self.own_thresholds is not None:
            return np.array(self.own_thresholds, np.float64)
        sums = (self.levels[:-1] + self.levels[1:]).astype(np.float64)
        return np.multiply(sums, 0.5 * self.scale, dtype=np.float64)


# The quantizers of a network have few different bases.
@lru_cache(1024)
def _levels(basis: tuple[int, ...]) -> NDArray[np.int64]:
    """(2^K,) sums of all subsets of a basis, ascending; read-only."""
    bits = len(basis)
    digits = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    levels = np.sort(digits @ np.array(basis))
    levels.flags.writeable = False
    return levels


def needed_version(
    steps: Sequence[OpSpec],
    quantizers: Sequence[QuantizerSpec],
    tensors: Mapping[str, NDArray[Any]],
) -> int:
    """The oldest version of the format, from 2 on, that has all that these need."""
    integers = any(step.needs == INTEGERS for step in steps)
    maps = steps[-1].OP != "linear"
    if integers and (maps or any(step.OP == "resize" for step in steps)):
        return BYTE_MAPS
    if maps:
        return MAPS
    thresholds = any(quantizer.own_thresholds is not None for quantizer in quantizers)
    offsets = any(f"{step.name}.offset" in tensors for step in steps)
    needs = OFFSETS if thresholds or offsets else FLOAT_INPUTS
    return max(needs, *(step.needs for step in steps))


@dataclass(frozen=True)
class BitsSpec:
    """Another setting of bits than the network's, which is the costliest; see `variants`."""

    wbits: int
    abits: int
    quantizers: tuple[QuantizerSpec, ...]


@dataclass(frozen=True)
class WidthSpec:
    """A narrower network than the file's, which has all channels; see `variants`.

    Attributes:
        width: below 1.
        channels: by name of a step, those of its numbers of channels that are smaller.
    """

    width: float
    channels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Plan:
    """All that a packed file holds but its tensors.

    Attributes:
        version: of the rsquant that packed it.
        format_version: of the file.
        bits: of settings beside the network's own.
        widths: below 1, of settings beside all channels, the widest first.
    """

    network: NetworkSpec
    quantizers: tuple[QuantizerSpec, ...]
    steps: tuple[OpSpec, ...]
    version: str
    format_version: int = VERSION
    bits: tuple[BitsSpec, ...] = ()
    widths: tuple[WidthSpec, ...] = ()
    cascade: CascadeSpec | None = None

    @property
    def gives_maps(self) -> bool:
        """Whether logits are maps (classes, h, w), and not (classes,)."""
        return self.steps[-1].OP != "linear"
