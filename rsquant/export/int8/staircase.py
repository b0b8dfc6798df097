"""Bytes to levels, in arithmetic on bytes: the activation quantizer of the int8 form.

A byte r stands for an activation. It takes the level l when it exceeds exactly l of L - 1 integer
thresholds:

    level(r) = a_0 + sum_l (a_(l+1) - a_l) [r > T_l]

onnxruntime has no fast table of bytes: 200,000 values (56 x 56, 64 channels; one thread, Zen 5)
take 580 us by a Gather, 5 us by a comparison, a conversion or a Clip. So steps are made of these.
Two bits need the least: their thresholds are equally far apart whatever the basis (q_1 / 2,
(q_1 + q_2) / 2, q_1 / 2 + q_2), so a convolution can round straight to the codes c = 0, 1, 2, 3.
Then with b = q_1 c and e = q_2 - 2 q_1, as long as |e| <= q_1,

    e > 0:  level + q_1 = b + clip(b, q_1, q_1 + e)
    e < 0:  level - e   = max(b, min(b, q_1) - e)

which is four and five operations, where steps one by one are six and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from rsquant.export.edit import Editor
from rsquant.export.int8.levels import Levels


@dataclass(frozen=True)
class Bytes:
    """A value of a graph as bytes: value = scale * (byte - zero).

    Attributes:
        name: of the uint8 tensor.
        top: its largest byte.
    """

    name: str
    scale: float
    zero: int
    top: int = 255


def add_staircase(
    editor: Editor,
    source: str,
    thresholds: Sequence[int],
    levels: Levels,
    name: str,
    compat: bool = False,
) -> Bytes:
    """Add the nodes that take each byte to its level.

    onnxruntime before 1.24 has no arithmetic on bytes: `compat` makes the steps in int32.

    Args:
        source: name of a uint8 tensor.
        thresholds: L - 1 integers, ascending; level l needs a byte above l of them.
        levels: L levels, from -127 to 127, of a span of at most 127.
        name: for what is added.
    """
    # Levels that no byte reaches.
    below = sum(t < 0 for t in thresholds)
    steps = [t for t in thresholds if 0 <= t < 255]
    integers = levels.integers[below : below + len(steps) + 1]
    # Thresholds may fall on one byte: then only the last of their levels is reached.
    last = [i for i in range(len(steps)) if steps[i : i + 1] != steps[i + 1 : i + 2]]
    integers = (integers[0], *(integers[i + 1] for i in last))
    steps = [steps[i] for i in last]
    unit = math.gcd(*integers) or 1
    lowest, zero = integers[0] // unit, max(0, -integers[0] // unit)
    heights = [int(step) // unit for step in np.diff(integers)]
    equal = len(set(heights)) == 1 and heights[0] > 0 and lowest % heights[0] == 0
    words: _Words | None = None
    if equal and steps == list(range(len(steps))):
        # Equal steps: the codes are the levels, up to scale and zero.
        worth = heights[0]
        value = _clip(editor, source, 0, len(steps), name)
        lowest, zero = lowest // worth, zero // worth
        unit *= worth
    elif steps == [0, 1, 2] and heights[0] == heights[2] >= abs(heights[1] - heights[0]) > 0:
        codes = _clip(editor, source, 0, 3, name)
        words = _Words(editor, codes, name, compat)
        value, raised = _from_codes(words, *heights[:2])
        lowest, zero = lowest - raised, zero + raised
    else:
        words = _Words(editor, source, name, compat)
        value = _sum_of_steps(words, steps, heights)
    if lowest + zero:
        if words is None:
            words = _Words(editor, value, name, compat)
            value = words.source
        value = words.node("Add", [value, words.constant(lowest + zero)], "raised")
    if words is not None:
        value = words.bytes(value)
    top = integers[-1] // unit + zero
    return Bytes(value, levels.scale * unit, zero, top)


class _Words:
    """Arithmetic on the values of a tensor, as bytes or as int32."""

    def __init__(self, editor: Editor, source: str, name: str, wide: bool) -> None:
        self.editor, self.name, self.wide = editor, name, wide
        self.type = TensorProto.INT32 if wide else TensorProto.UINT8
        self.source = source
        if wide:
            self.source = self.node("Cast", [source], "words", to=TensorProto.INT32)

    def node(self, op: str, inputs: list[str], what: str, **attributes: int) -> str:
        return self.editor.node(op, inputs, f"{self.name}/{what}", **attributes)

    def constant(self, value: int) -> str:
        if self.wide:
            return self.editor.constant(f"word/{value}", np.int32(value))
        return self.editor.constant(f"byte/{value}", np.uint8(value))

    def clip(self, value: str, low: int, high: int, what: str) -> str:
        return self.node("Clip", [value, self.constant(low), self.constant(high)], what)

    def times(self, value: str, factor: int, what: str) -> str:
        if factor == 1:
            return value
        return self.node("Mul", [value, self.constant(factor)], f"{what}/times_{factor}")

    def step(self, threshold: int, what: str) -> str:
        """1 above the threshold, else 0."""
        above = self.node("Greater", [self.source, self.constant(threshold)], what)
        return self.node("Cast", [above], f"{what}/number", to=self.type)

    def bytes(self, value: str) -> str:
        if not self.wide:
            return value
        return self.node("Cast", [value], "narrow", to=TensorProto.UINT8)


def _from_codes(words: _Words, outer: int, middle: int) -> tuple[str, int]:
    """The levels of codes 0 to 3, and by how much they are too high."""
    even = words.times(words.source, outer, "even")
    more = middle - outer
    if more > 0:
        step = words.clip(even, outer, outer + more, "step")
        return words.node("Add", [even, step], "levels"), outer
    low = words.clip(even, 0, outer, "low")
    low = words.node("Add", [low, words.constant(-more)], "low/raised")
    return words.node("Max", [even, low], "levels"), -more


def _sum_of_steps(words: _Words, thresholds: Sequence[int], heights: list[int]) -> str:
    groups: dict[int, list[int]] = {}
    for threshold, height in zip(thresholds, heights, strict=True):
        if height:
            groups.setdefault(height, []).append(threshold)
    total = ""
    for height, group in groups.items():
        part = ""
        for threshold in group:
            one = words.step(threshold, f"above_{threshold}")
            what = f"up_to_{threshold}"
            part = words.node("Add", [part, one], what) if part else one
        part = words.times(part, height, f"height_{height}")
        total = words.node("Add", [total, part], f"sum_{height}") if total else part
    # A basis of zeros has one level.
    return total or words.times(words.source, 0, "nothing")


def _clip(editor: Editor, source: str, low: int, high: int, name: str) -> str:
    bounds = [editor.constant(f"byte/{v}", np.uint8(v)) for v in (low, high)]
    return editor.node("Clip", [source, *bounds], f"{name}/codes")
