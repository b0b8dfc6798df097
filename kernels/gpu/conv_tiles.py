"""The form of a convolution, and the ways to cut it up that are worth trying."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import triton

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.weights import Weights
from rsquant.kernels.gpu.words import FLOAT_FIELD


@dataclass(frozen=True)
class Geometry:
    """A convolution's form; sizes as in `rsquant.packed.ops.conv.ConvStep`."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Rows of the product."""
        return self.batch * self.out_height * self.out_width

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Tile:
    """How a convolution is cut up.

    Attributes:
        bm, bn: pixels and channels of a tile. bk: bytes of the sum in a step.
        warps, stages: of the compiler.
        packed: read the packed weights and decode them, else int8 ones.
    """

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    packed: bool = False

    def __str__(self) -> str:
        weights = "packed" if self.packed else "int8"
        return f"{self.bm}x{self.bn}x{self.bk} w{self.warps} s{self.stages} {weights}"

    @staticmethod
    def parse(text: str) -> Tile:
        """What `str` wrote. Raises ValueError for anything else."""
        shape, warps, stages, weights = text.split()
        bm, bn, bk = map(int, shape.split("x"))
        if weights not in ("packed", "int8") or warps[0] != "w" or stages[0] != "s":
            raise ValueError(text)
        return Tile(bm, bn, bk, int(warps[1:]), int(stages[1:]), weights == "packed")


# Wide ones first: they decode the pixels least often. With 256 columns the products of a Hopper
# multiprocessor take longer than the decoding, with 128 about as long (counted by `aot`).
_TILES = (
    Tile(128, 256, 128, 8, 3),
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 64, 8, 4),
    Tile(128, 64, 128, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 128, 4, 3),
    Tile(64, 64, 128, 4, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
)

# A float is four bytes and two products: the widest tiles that spill no registers (`aot`).
_FLOAT_TILES = (
    Tile(64, 128, 64, 8, 3),
    Tile(128, 64, 64, 8, 3),
    Tile(64, 64, 64, 8, 3),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
)


def tiles(form: Geometry, weights: Weights, in_field: int, out_field: int) -> Iterator[Tile]:
    """The tiles worth trying for a convolution, the likeliest first."""
    columns = form.out_channels // weights.groups
    words_out = words.word_channels(out_field) if out_field else 1
    for tile in _FLOAT_TILES if in_field == FLOAT_FIELD else _TILES:
        if tile.bn > max(32, triton.next_power_of_2(columns)) or tile.bn < words_out:
            continue
        if tile.bm > max(32, triton.next_power_of_2(form.pixels)):
            continue
        if tile.bk > max(64, form.taps * weights.group_words * words.word_channels(in_field)):
            continue
        yield tile
        if weights.packed is not None and tile.bn <= 128:
            yield dataclasses.replace(tile, packed=True)
