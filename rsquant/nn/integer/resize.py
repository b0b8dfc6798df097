"""A map of bytes of another height and width."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.integer.exact import codes_at, step_of
from rsquant.nn.integer.layers import IntegerModule
from rsquant.packed.resampling import Taps, in_parts, linear, matrix, nearest, scaled_side
from rsquant.quantizers.calls import basis_of
from rsquant.quantizers.rounding import straight_through


class IntegerResize(IntegerModule):
    """A map of bytes as `torch.nn.functional.interpolate` gives it, in bytes of the same scale.

    Blended with weights in whole parts of 128, and rounded; or the nearest pixels as they are. The
    size, if any, comes with each call.

    Args:
        mode, align_corners, scale_factor, recompute_scale_factor: as torch has them.
    """

    def __init__(
        self,
        active: ActiveSetting,
        source: Bytes,
        mode: str,
        align_corners: bool | None,
        scale_factor: Any = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__(active, source)
        self.mode, self.align_corners = mode, bool(align_corners)
        self.scale_factor = scale_factor
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        trained, exact = (functools.partial(one, size=size) for one in (self.trained, self.exact))
        return self.either(x, trained, exact)

    def trained(self, x: Tensor, size: Any = None) -> Tensor:
        out = self.source
        assert isinstance(out, Bytes)
        # A recomputation has the step of its forward, and backward too: later calls move it.
        step = basis_of(self, out.scale.step[self.active.rows.i]).clone()
        return self._resized(x, step, size)

    def exact(self, x: Tensor, size: Any = None) -> Tensor:
        return self._resized(x, torch.tensor(step_of(self.source, self.active.rows)), size)

    def _resized(self, x: Tensor, step: Tensor, size: Any) -> Tensor:
        codes = straight_through(x.float() / step, codes_at(x, step))
        blended = self.blended(codes, size)
        return straight_through(blended, blended.detach().round()) * step

    def blended(self, x: Tensor, size: Any) -> Tensor:
        """What lies between the pixels, not rounded: of codes exact in float32, in any order."""
        rows, columns = self.taps((x.shape[-2], x.shape[-1]), size)
        if x.device.type != "cpu":  # its products may be of fewer bits
            return _between(_between(x, columns, -1), rows, -2)
        height, width = (
            torch.from_numpy(matrix(taps, side))
            for taps, side in ((rows, x.shape[-2]), (columns, x.shape[-1]))
        )
        with torch.autocast("cpu", enabled=False):
            return height @ (x @ width.T)

    def taps(self, sides: tuple[int, int], size: Any) -> tuple[Taps, Taps]:
        """Pixels and weights of rows and columns, for a map of these sides."""
        factors: tuple[Any, Any] = (None, None)
        if size is None:
            factors = _pair(self.scale_factor)
            size = [scaled_side(side, f) for side, f in zip(sides, factors, strict=True)]
        if self.recompute_scale_factor:
            factors = (None, None)
        rows, columns = (
            _taps(self.mode, self.align_corners, side, int(out), factor)
            for side, out, factor in zip(sides, _pair(size), factors, strict=True)
        )
        return rows, columns

    def extra_repr(self) -> str:
        return f"mode={self.mode}"


@functools.lru_cache(maxsize=64)
def _taps(mode: str, align_corners: bool, side: int, out: int, factor: float | None) -> Taps:
    if mode == "bilinear":
        return in_parts(linear(side, out, factor, align_corners))
    return nearest(side, out, factor, exact=mode == "nearest-exact")


def _between(x: Tensor, taps: Taps, dim: int) -> Tensor:
    """Two pixels along a side, times their weights, added."""
    pixels, weights = (torch.from_numpy(v).to(x.device) for v in taps)
    shape = (-1, 1) if dim == -2 else (-1,)
    first, second = (
        x.index_select(dim, pixels[:, i].long()) * weights[:, i].view(shape) for i in range(2)
    )
    return first + second
