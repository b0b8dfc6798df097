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
from rsquant.quantizers.calls import PerCall, setting
from rsquant.resolutions import blend, checked_sizes, side


class ActiveResolution:
    """Trained sizes, largest first, and the blend of their rows in force.

    The rows in force belong to the thread that set them, and to recomputations of its calls.

    Args:
        resolutions: trained sizes in pixels, all different, any order; or S times the same one, for
            S paths with rows of their own at one size (RS-Nets, table 6). Elsewhere than in
            training the first row is used then.
    """

    def __init__(self, resolutions: Sequence[int]) -> None:
        given = checked_sizes(resolutions)
        sizes = tuple(sorted(given, reverse=True))
        if not sizes or sizes[-1] < 1 or len(set(sizes)) not in (1, len(sizes)):
            raise ModelError(
                "resolutions: must be different positive sizes in pixels, or all the same one, "
                f"got {given}"
            )
        self.resolutions = sizes
        self._pinned = PerCall(None)
        self._rows = PerCall((0, 0, 0.0))

    @property
    def pinned(self) -> float | None:
        """The size in force, in pixels; None outside of `at`."""
        return self._pinned.value

    @property
    def rows(self) -> tuple[int, int, float]:
        """Rows (i, j) in force, and the weight of j; a trained size has weight 0."""
        return self._rows.value

    def blend(self, size: float) -> tuple[int, int, float]:
        """Rows (i, j) and j's weight in 0 .. 1 for a size in pixels."""
        return blend(self.resolutions, size)

    @contextmanager
    def at(self, size: float) -> Iterator[None]:
        """Use this size's rows inside the block, in this thread, whatever the input's size is."""
        if not size > 0:
            raise ModelError(f"at: the resolution must be a positive size in pixels, got {size}")
        with self._using(size, self.blend(size)):
            yield

    @contextmanager
    def at_path(self, index: int) -> Iterator[None]:
        """Use one row of the tables inside the block; its size is `resolutions[index]`."""
        with self._using(self.resolutions[index], (index, index, 0.0)):
            yield

    @contextmanager
    def _using(self, size: float, rows: tuple[int, int, float]) -> Iterator[None]:
        with setting([(self._pinned, size), (self._rows, rows)]):
            yield


def side_of(images: Tensor) -> float:
    """The side in pixels of the square with the area of (N, C, H, W) images.

    Raises:
        ModelError: not a tensor, or one without height and width.
    """
    if not isinstance(images, Tensor) or images.dim() < 2:
        kind = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ModelError(f"images: must be a torch.Tensor (N, 3, H, W), got {kind}")
    height, width = images.shape[-2:]
    return side(int(height), int(width))
