"""How many zeros a convolution or pooling puts around a map of a given size.

Most networks pad alike on both sides, at every size. TensorFlow's "same" padding depends on the
size: with a stride of 2 it pads nothing on the left and one pixel on the right of an even map.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Pair = tuple[int, int]
# Top, left, bottom and right, in pixels, as ONNX has them.
Pads = tuple[int, int, int, int]
# Pads of every size (a pair: top = bottom, left = right), or the name of a rule.
Padding = Pair | Pads | str

# ceil(side / stride) outputs, of as few zeros as that takes: half of them before, and the odd one
# after the map ("same", TensorFlow's SAME) or before it ("same-lower").
SAME, SAME_LOWER = RULES = ("same", "same-lower")


def pair(sides: Iterable[Any]) -> Pair:
    """Height and width; some classes make lists of what others make tuples of."""
    height, width = sides
    return int(height), int(width)


def pads_at(padding: Padding, sides: Pair, extent: Pair, stride: Pair) -> Pads:
    """The zeros around a map.

    Args:
        padding: pads, or one of RULES.
        sides: height and width of the map in pixels.
        extent: of the window, see `extent_of`.
    """
    if isinstance(padding, str):
        odd_first = padding == SAME_LOWER
        ends = [_same(*axis, odd_first) for axis in zip(sides, extent, stride, strict=True)]
        (top, bottom), (left, right) = ends
        return top, left, bottom, right
    return all_sides(padding)


def extent_of(kernel: Pair, dilation: Pair) -> Pair:
    """Pixels that a dilated window spans."""
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def added(one: Pair | Pads, other: Pair | Pads) -> Pads:
    """The zeros of two paddings, one around the other."""
    top, left, bottom, right = (
        a + b for a, b in zip(all_sides(one), all_sides(other), strict=True)
    )
    return top, left, bottom, right


def is_pair(padding: Padding) -> bool:
    """Whether it is the same at every size, and above as below, left as right."""
    return isinstance(padding, tuple) and len(padding) == 2


def all_sides(padding: Pair | Pads) -> Pads:
    """Pads of all four sides."""
    if len(padding) == 2:
        return (*padding, *padding)
    return padding


def plainest(padding: Padding, extent: Pair, stride: Pair) -> Padding:
    """The same padding without a rule where it is the same at every size; a pair where that does.

    A stride of 1 makes "same" extent - 1 zeros, and a window of one pixel never needs any.
    """
    if isinstance(padding, str):
        if any(s > 1 and e > 1 for s, e in zip(stride, extent, strict=True)):
            return padding
        padding = pads_at(padding, extent, extent, stride)
    pads = all_sides(padding)
    return pads[:2] if pads[:2] == pads[2:] else pads


def output_side(side: int, before: int, after: int, extent: int, stride: int) -> int:
    """Windows that fit on a padded side; less than 1 where none does."""
    return (side + before + after - extent) // stride + 1


def _same(side: int, extent: int, stride: int, odd_first: bool) -> Pair:
    """Zeros before and after one side."""
    total = max((-(-side // stride) - 1) * stride + extent - side, 0)
    half = total // 2
    return (total - half, half) if odd_first else (half, total - half)


def with_zeros(padding: Pair | Pads, zeros: Pads | None) -> Pair | Pads:
    """A layer's padding in pixels, and what a padding in front of it adds."""
    if zeros is None:
        return padding
    pads = added(padding, zeros)
    return pads[:2] if pads[:2] == pads[2:] else pads
