"""The active resolution: which row of every resolution table a network uses now.

One `ActiveResolution` is shared by all SwitchableBatchNorm2d layers of a network. A trained size
uses its own row; a size between two trained ones blends their rows linearly; a size outside the
range uses the nearest end. Source: RS-Nets (arXiv 2007.09558), section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from rsquant.errors import ModelError
from rsquant.resolutions import blend, checked_sizes, side


class ActiveResolution:
    """Trained sizes, largest first, and the blend of their rows in force.

    Args:
        resolutions: trained sizes in pixels, all different, any order.
    """

    def __init__(self, resolutions: Sequence[int]) -> None:
        given = checked_sizes(resolutions)
        sizes = tuple(sorted(set(given), reverse=True))
        if not sizes or sizes[-1] < 1 or len(sizes) != len(given):
            raise ModelError(
                f"resolutions: must be different positive sizes in pixels, got {given}"
            )
        self.resolutions = sizes
        self.pinned: float | None = None
        # Rows (i, j) and the weight of j; a trained size has weight 0.
        self.rows: tuple[int, int, float] = (0, 0, 0.0)

    def blend(self, size: float) -> tuple[int, int, float]:
        """Rows (i, j) and j's weight in 0 .. 1 for a size in pixels."""
        return blend(self.resolutions, size)

    @contextmanager
    def at(self, size: float) -> Iterator[None]:
        """Use this size's rows inside the block, whatever the input's size is."""
        if not size > 0:
            raise ModelError(f"at: the resolution must be a positive size in pixels, got {size}")
        before = self.pinned, self.rows
        self.pinned, self.rows = size, self.blend(size)
        try:
            yield
        finally:
            self.pinned, self.rows = before


def side_of(images: Tensor) -> float:
    """The side in pixels of the square with the area of (N, C, H, W) images."""
    height, width = images.shape[-2:]
    return side(int(height), int(width))
