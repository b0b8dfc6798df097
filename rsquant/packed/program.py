"""A packed network made ready for one image size: shaped, folded, nothing left to look up.

A program is plain data. `run` computes it slowly and says what it means; the compiled kernels run
the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.ops.base import Kind, Step, Values


@dataclass(frozen=True)
class Value:
    """What one step writes and later ones read, (height, width, channels) per image.

    Attributes:
        kind: "image": uint8, R, G, B and a fourth channel of 255. "codes": uint8, level + zero of
            one quantizer. "bytes": uint8, code + zero. "float": float32.
        fill: the byte that stands for the value 0, and pads a convolution's input; 0 for floats,
            and for the image but in integer networks.
        basis: of codes, ascending: their bytes are the sums of its subsets.
    """

    kind: Kind
    channels: int
    height: int
    width: int
    fill: int = 0
    basis: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """Steps in the order they run.

    Attributes:
        values: value 0 is the image.
        logits: number of the value they end in.
        gives_maps: whether the logits are maps (classes, h, w), and not (classes,).
    """

    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    logits: int
    height: int
    width: int
    gives_maps: bool = False

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the logits of one image."""
        value = self.values[self.logits]
        sides = (value.height, value.width) if self.gives_maps else ()
        return (value.channels, *sides)


def madds(program: Program) -> int:
    """Multiply-adds of a program's convolutions and linear layers for one image."""
    return sum(step.madds(program) for step in program.steps)


@overload
def run(program: Program, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...
@overload
def run(
    program: Program, images: NDArray[np.uint8], every: Literal[True]
) -> tuple[NDArray[np.float32], Values]: ...


def run(
    program: Program, images: NDArray[np.uint8], every: bool = False
) -> NDArray[np.float32] | tuple[NDArray[np.float32], Values]:
    """Run a program in numpy: the specification of every back end.

    A compiled kernel is right when each of its values equals the one computed here, bit for bit.

    Args:
        images: (N, 3, height, width) uint8, of the program's size.
        every: return all values too.
    Returns:
        logits (N, classes) or, of maps, (N, classes, h, w), float32; with `every` also the values
        by number, each (N, height, width, channels), float32 for floats, else uint8.
    Raises:
        ValueError: images of another type or shape.
    """
    size = (3, program.height, program.width)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != size:
        raise ValueError(
            f"run: images must be uint8 (N, 3, {program.height}, {program.width}), "
            f"got {images.dtype} {images.shape}"
        )
    # Pixels, and a fourth channel that is 255 inside the image.
    image = np.full((len(images), *size[1:], 4), 255, np.uint8)
    image[..., :3] = images.transpose(0, 2, 3, 1)
    values: Values = [image]
    for step in program.steps:
        step.run(program, values)
    logits = values[program.logits].transpose(0, 3, 1, 2)
    if not program.gives_maps:
        logits = logits[:, :, 0, 0]
    return (logits, values) if every else logits
