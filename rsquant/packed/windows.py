"""Where the windows of a pooling begin and end, along one side of a map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# (n, 2) int32: of each window its first pixel, and the one behind its last.
Spans = NDArray[np.int32]


def sliding(
    side: int,
    before: int,
    after: int,
    kernel: int,
    stride: int,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Spans:
    """Windows on a padded side, in pixels of the map, so that they may lie outside.

    There are floor((side + before + after - extent) / stride) + 1, extent = dilation (kernel - 1)
    + 1. With `ceil_mode` the quotient is rounded up, and a window that would begin behind the map
    left out, as in torch. Less than one is none.
    """
    extent = dilation * (kernel - 1) + 1
    room = side + before + after - extent
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= side + before:
        count -= 1
    begin = np.arange(max(count, 0), dtype=np.int64) * stride - before
    return np.stack([begin, begin + extent], 1).astype(np.int32)


def inside(spans: Spans, side: int, dilation: int = 1) -> Spans:
    """The part of each window that lies on the map; begin >= end where there is none.

    A window begins at one of its own pixels: `dilation` apart.
    """
    outside = np.maximum(-spans[:, 0], 0)
    begin = spans[:, 0] + -(-outside // dilation) * dilation
    return np.stack([begin, np.minimum(spans[:, 1], side)], 1).astype(np.int32)


def adaptive(side: int, count: int) -> Spans:
    """`count` windows that cover a side: floor(i side / count) to ceil((i + 1) side / count)."""
    index = np.arange(count, dtype=np.int64)
    return np.stack([index * side // count, -(-(index + 1) * side // count)], 1).astype(np.int32)


def longest(spans: Spans, dilation: int = 1) -> int:
    """Pixels of the longest window."""
    return int((-(-(spans[:, 1] - spans[:, 0]) // dilation)).max())
