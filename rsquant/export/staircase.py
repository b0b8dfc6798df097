"""Bytes to levels, in arithmetic on bytes: the activation quantizer of the int8 form.

A byte r stands for an activation. It takes the level l when it exceeds exactly l of L - 1 integer
thresholds:

    level(r) = a_0 + sum_l (a_(l+1) - a_l) [r > T_l]

onnxruntime has no table of bytes that is fast (a Gather takes 3 ns a value, a comparison or a
clipped byte 0.03, measured), so the steps are made of Clip, Mul and Add. Two bits need the least:
their thresholds are equally far apart whatever the basis (q_1 / 2, (q_1 + q_2) / 2, q_1 / 2 + q_2),
so a convolution can round straight to the codes c = 0, 1, 2, 3, and

    level = q_1 c + (q_2 - 2 q_1) [c > 1]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from rsquant.export.edit import Editor


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


@dataclass(frozen=True)
class Levels:
    """Integer levels, ascending, and what one is worth."""

    integers: tuple[int, ...]
    scale: float


def add_staircase(
    editor: Editor,
    source: str,
    thresholds: Sequence[int],
    levels: Levels,
    name: str,
    compat: bool = False,
) -> Bytes:
    """Add the nodes that take each byte to its level.

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
    unit = math.gcd(*integers) or 1
    lowest, zero = integers[0] // unit, max(0, -integers[0] // unit)
    heights = [int(step) // unit for step in np.diff(integers)]
    equal = len(set(heights)) == 1 and heights[0] > 0 and lowest % heights[0] == 0
    if equal and steps == list(range(len(steps))):
        # Equal steps: the codes are the levels, up to scale and zero.
        worth = heights[0]
        value = _clip(editor, source, 0, len(steps), name)
        lowest, zero = lowest // worth, zero // worth
        unit *= worth
    elif steps == [0, 1, 2] and heights[0] == heights[2] and heights[0] > 0:
        value = _from_codes(editor, source, heights, name)
    else:
        value = _sum_of_steps(editor, source, steps, heights, name)
    if lowest + zero:
        base = editor.constant(f"byte/{lowest + zero}", np.uint8(lowest + zero))
        value = editor.node("Add", [value, base], f"{name}/raised")
    top = integers[-1] // unit + zero
    return Bytes(value, levels.scale * unit, zero, top)


def _from_codes(editor: Editor, source: str, heights: list[int], name: str) -> str:
    codes = _clip(editor, source, 0, 3, name)
    even = _times(editor, codes, heights[0], f"{name}/even")
    more = heights[1] - heights[0]
    upper = _times(editor, _step(editor, codes, 1, f"{name}/upper"), abs(more), f"{name}/upper")
    # Never below zero: one step down is taken where the codes are 2 and 3.
    return editor.node("Add" if more > 0 else "Sub", [even, upper], f"{name}/levels")


def _sum_of_steps(
    editor: Editor, source: str, thresholds: Sequence[int], heights: list[int], name: str
) -> str:
    groups: dict[int, list[int]] = {}
    for threshold, height in zip(thresholds, heights, strict=True):
        if height:
            groups.setdefault(height, []).append(threshold)
    total = ""
    for height, group in groups.items():
        part = ""
        for threshold in group:
            one = _step(editor, source, threshold, f"{name}/above_{threshold}")
            part = editor.node("Add", [part, one], f"{one}/sum") if part else one
        part = _times(editor, part, height, f"{name}/height_{height}")
        total = editor.node("Add", [total, part], f"{part}/total") if total else part
    # A basis of zeros has one level.
    return total or _times(editor, source, 0, f"{name}/nothing")


def _times(editor: Editor, source: str, factor: int, name: str) -> str:
    if factor == 1:
        return source
    constant = editor.constant(f"byte/{factor}", np.uint8(factor))
    return editor.node("Mul", [source, constant], f"{name}/times_{factor}")


def _step(editor: Editor, source: str, threshold: int, name: str) -> str:
    """1 above the threshold, else 0."""
    bound = editor.constant(f"byte/{threshold}", np.uint8(threshold))
    above = editor.node("Greater", [source, bound], name)
    return editor.node("Cast", [above], f"{name}/byte", to=TensorProto.UINT8)


def _clip(editor: Editor, source: str, low: int, high: int, name: str) -> str:
    bounds = [editor.constant(f"byte/{v}", np.uint8(v)) for v in (low, high)]
    return editor.node("Clip", [source, *bounds], f"{name}/codes")
