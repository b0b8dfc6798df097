"""The operations of a traced network, as a graph of values and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from rsquant.nn.padded import pads_of
from rsquant.nn.readers import Read
from rsquant.padding import Pads

Pair = tuple[int, int]
# Kinds that no operation of a file has. A view is its input in another shape, with `axes`
# (`packing.axes`); what reads one says what of it. Blocks are the pixels of squares as channels.
VIEW, BLOCKS = "view", "blocks"


@dataclass(eq=False)
class Op(Read):
    """One operation and its result.

    Attributes:
        kind: an operation of `packed.ops`; or image, norm, relu, add and quantize, which become
            part of one. A pad becomes part of what reads it, where that pads by itself.
        name: of its layer, or torch.fx's name for a function.
        module: the layer, where it has weights or a basis.
        fields: of the operation of `packed.ops`, by name.
        pixels: height and width of the result where they are the same at every size; (1, 1) of a
            pooled map and what is computed of one.
        channels: of the result.
        moved: of a maxpool: the quantizer that stood behind it.
        clip: of a relu: min(max(x, 0), clip).
        zeros: pixels above, left, below and right: of a pad, and of what reads one (`padding`);
            or a rule. None of a pad whose pixels depend on the size.
        zeros_at: of a pad, at several sizes: height and width of its input, and its pixels.
        sides: height and width of the result, where it was traced for one size of the images.
        filler: of a pad: the value of those pixels.
        users: who reads the result, once per reading.
    """

    kind: str
    name: str
    inputs: tuple[Op, ...]
    module: nn.Module | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    pixels: Pair | None = None
    channels: int = 0
    clip: float | None = None
    moved: Op | None = None
    zeros: Pads | str | None = None
    zeros_at: list[tuple[Pair, Pads]] = field(default_factory=list)
    sides: Pair | None = None
    filler: float = 0.0
    users: list[Op] = field(default_factory=list)

    @property
    def is_padding(self) -> bool:
        """Whether it only puts pixels around a map."""
        return self.kind == "pad" and not any(self.fields.get("added", ()))

    @property
    def pooled(self) -> bool:
        """Whether the result has one pixel at every size."""
        return self.pixels == (1, 1)


def set_users(ops: Sequence[Op]) -> None:
    """Note at each operation of a graph who reads its result."""
    for op in ops:
        op.users = []
    for op in ops:
        for source in op.inputs:
            source.users.append(op)


def needed(ops: Sequence[Op], result: Op | None) -> list[Op]:
    """The operations that a result is computed from, in their order."""
    found: set[Op] = set()
    pending = [] if result is None else [result]
    while pending:
        op = pending.pop()
        if op not in found:
            found.add(op)
            pending += op.inputs
    kept = [op for op in ops if op in found]
    set_users(kept)
    return kept


def quantize_before_pooling(
    ops: list[Op], is_quantizer: Callable[[Op], bool] = lambda op: op.kind == "quantize"
) -> None:
    """Move a quantizer that alone reads a max-pooling in front of it, in place.

    Both are monotone, so they commute; codes are a quarter of the memory of floats, and what makes
    the pooling's input can write them.

    Args:
        is_quantizer: whether an operation gives levels that ascend with its input.
    """
    for index, op in enumerate(ops):
        pool = op.inputs[0] if is_quantizer(op) else None
        if pool is None or pool.kind != "maxpool" or len(pool.users) != 1:
            continue
        source = pool.inputs[0]
        source.users[source.users.index(pool)] = op
        pool.users, op.users = op.users, [pool]
        op.inputs, pool.inputs, pool.moved = (source,), (op,), op
        op.pixels, op.channels = source.pixels, source.channels
        for user in pool.users:
            user.inputs = tuple(pool if x is op else x for x in user.inputs)
        # The pooling now runs where the quantizer did.
        ops[ops.index(pool)], ops[index] = op, pool


def sum_last(ops: list[Op]) -> None:
    """Move a convolution that alone feeds a sum behind the sum's other term, in place.

    Its epilogue then adds that term, where that is no convolution, which would do so itself: one
    step in place of two. Of RefineNet's fusion: conv(x) + resized(y), y of the size of conv(x).
    """
    for op in ops:
        if op.kind == "resize" and len(op.inputs) == 2:
            x, like = op.inputs
            op.inputs = x, _of_its_size(like)
    set_users(ops)
    for add in [op for op in ops if op.kind == "add" and op.inputs[0] is not op.inputs[1]]:
        for result, other in (add.inputs, add.inputs[::-1]):
            chain = [result]
            if result.kind == "norm":
                chain.insert(0, result.inputs[0])
            alone = all(len(op.users) == 1 for op in chain) and chain[0].kind == "conv"
            if (
                alone
                and other.kind not in ("conv", "norm")
                and ops.index(other) > ops.index(result)
            ):
                for op in chain:
                    ops.remove(op)
                at = ops.index(other) + 1
                ops[at:at] = chain


def _of_its_size(op: Op) -> Op:
    """What a convolution reads that keeps the size and leads to a result, where that has a value of
    its own; or the result."""
    conv = op.inputs[0] if op.kind == "norm" else op
    if conv.kind != "conv" or conv.inputs[0].kind == "image":
        return op
    # Of an integer network the convolution is part of a layer, and whatever it reads is a value.
    layer = getattr(conv.module, "layer", conv.module)
    if layer is conv.module and conv.inputs[0].kind != "quantize":
        return op
    if not isinstance(layer, nn.Conv2d) or conv.zeros is not None or conv.zeros_at:
        return op
    keeps = layer.stride == (1, 1) and layer.padding_mode == "zeros"
    same = isinstance(layer.padding, tuple) and all(
        isinstance(p, int) and 2 * p == d * (k - 1)
        for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
    )
    return conv.inputs[0] if keeps and same and pads_of(layer) is None else op
