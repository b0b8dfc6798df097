"""The operations of a network, as a graph of values and who reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from rsquant.padding import Pads

Kind = Literal[
    "image", "conv", "norm", "relu", "add", "quantize", "maxpool", "avgpool", "linear", "pad"
]
Pair = tuple[int, int]


@dataclass(eq=False)
class Op:
    """One operation and its result.

    Attributes:
        name: of its layer, or torch.fx's name for a function.
        module: the layer, where it has weights or a basis.
        window: of a maxpool: kernel, stride and padding.
        moved: of a maxpool: the quantizer that stood behind it.
        clip: of a relu: min(max(x, 0), clip).
        zeros: pixels above, left, below and right: of a pad, and of what reads one (`padding`),
            which may also have a rule; None of a pad whose pixels depend on the size.
        zeros_at: of a pad, at several sizes: height and width of its input, and its pixels.
        sides: height and width of the result, where it was traced for one size of the images.
        filler: of a pad: the value of those pixels.
        pooled: the result has one pixel.
        users: who reads the result, once per reading.
    """

    kind: Kind
    name: str
    inputs: tuple[Op, ...]
    module: nn.Module | None = None
    clip: float | None = None
    window: tuple[Pair, Pair, Pair] | None = None
    moved: Op | None = None
    zeros: Pads | str | None = None
    zeros_at: list[tuple[Pair, Pads]] = field(default_factory=list)
    sides: Pair | None = None
    filler: float = 0.0
    pooled: bool = False
    users: list[Op] = field(default_factory=list)


def note_users(ops: list[Op]) -> None:
    """Let every operation know its readers, in place, from what they read."""
    for op in ops:
        op.users = []
    for op in ops:
        for source in op.inputs:
            source.users.append(op)


def quantize_before_pooling(ops: list[Op]) -> None:
    """Move a quantizer that alone reads a max-pooling in front of it, in place.

    Both are monotone, so they commute, and codes are a quarter of the memory of floats.
    """
    for index, op in enumerate(ops):
        pool = op.inputs[0] if op.kind == "quantize" else None
        if pool is None or pool.kind != "maxpool" or len(pool.users) != 1:
            continue
        source = pool.inputs[0]
        source.users[source.users.index(pool)] = op
        pool.users, op.users = op.users, [pool]
        op.inputs, pool.inputs, pool.moved = (source,), (op,), op
        for user in pool.users:
            user.inputs = tuple(pool if x is op else x for x in user.inputs)
        # The pooling now runs where the quantizer did.
        ops[ops.index(pool)], ops[index] = op, pool
