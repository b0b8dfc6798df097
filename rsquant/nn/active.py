"""The active setting: which rows of every BatchNorm table a network uses now.

One `ActiveSetting` is shared by all SwitchableBatchNorm2d layers of a network. A trained setting
uses its own row; a size between two trained ones blends their rows linearly; a size outside the
range uses the nearest end. Source: RS-Nets (arXiv 2007.09558), section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from rsquant.errors import ModelError
from rsquant.quantizers.calls import PerCall, using
from rsquant.quantizers.nested import BITS
from rsquant.settings import Bits, Blend, Setting, Variant, blend, side, variant_of, variants

# Share of the channels in force; None: all.
WIDTH = PerCall(None)


class ActiveSetting:
    """Trained settings, costliest first, and the blend of their rows in force.

    The rows in force belong to the thread that set them, and to recomputations of its calls.

    Args:
        settings: sorted, a row each, see `rsquant.settings.of_sizes`. Of several rows for one
            setting the first is used, elsewhere than in training.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = tuple(settings)
        self._pinned = PerCall(None)
        self._rows = PerCall(Blend.of_row(0))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sizes in pixels, one per path: of the rows of the costliest width and bits."""
        first = self.settings[0].variant
        return tuple(one.size for one in self.settings if one.variant == first)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Widths and bits of the settings, the costliest first."""
        return variants(self.settings)

    @property
    def pinned(self) -> float | None:
        """The size in force, in pixels; None outside of `at`."""
        return self._pinned.value

    @property
    def rows(self) -> Blend:
        """The rows in force."""
        return self._rows.value

    def blend(self, size: float, bits: Bits | None = None, width: float | None = None) -> Blend:
        """The rows of a size in pixels, of bits and of a width; None: the costliest's."""
        return blend(self.settings, size, width, bits)

    @contextmanager
    def at(
        self, size: float, bits: Bits | None = None, width: float | None = None
    ) -> Iterator[None]:
        """Use these rows inside the block, in this thread, whatever the input's size is.

        Args:
            bits: of weights and activations, of a trained setting; None: the costliest one's.
            width: of a trained setting; None: the costliest one's.
        """
        if not size > 0:
            raise ModelError(f"at: the resolution must be a positive size in pixels, got {size}")
        rows = self.blend(size, bits, width)
        with self._using(size, rows, variant_of(self.variants, width, bits)):
            yield

    @contextmanager
    def at_row(self, row: int) -> Iterator[None]:
        """Use one row of the tables inside the block; what it is for is `settings[row]`."""
        one = self.settings[row]
        with self._using(one.size, Blend.of_row(row), one.variant):
            yield

    @contextmanager
    def _using(self, size: float, rows: Blend, variant: Variant) -> Iterator[None]:
        width = variant.width if variant.width < 1 else None
        values = [(self._pinned, size), (self._rows, rows), (BITS, variant.bits), (WIDTH, width)]
        with using(values):
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
