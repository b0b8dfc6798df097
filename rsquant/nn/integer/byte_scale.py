"""Maps of bytes: value = step * code, one step per map and setting.

Maps that are added to one another share a step, so that a sum is the sum of their codes. A step is
taken from statistics: of each map the largest size seen, averaged over batches, must fit its codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rsquant.nn.active import ActiveSetting
from rsquant.packed.integers import LEAST_STEP, clipped_at
from rsquant.quantizers.base import Float32State
from rsquant.quantizers.calls import basis_of, check_forward, recomputing
from rsquant.quantizers.over_processes import largest
from rsquant.settings import Blend

MOMENTUM = 0.9
# Before anything was seen: BatchNorms give values of deviation 1.
_START = 8.0


class _Round(torch.autograd.Function):
    """step * min(max(round(x / step), low), high). Gradient: 1 where no limit acts, else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        codes = torch.round(x / step)
        limited = codes.clamp(low, high)
        ctx.save_for_backward(codes == limited)
        return limited.mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None


class ByteScale(Float32State):
    """The steps that maps share.

    step_s = max_m peak_ms / top_m, s a setting, m a map, top_m its largest code.

    Args:
        active: the settings.

    Attributes:
        step: (S,) float32.
        peak: (M, S) float32, the averaged largest size of each map.
    """

    step: Tensor
    peak: Tensor
    tops: Tensor

    def __init__(self, active: ActiveSetting) -> None:
        super().__init__()
        self.active = active
        self.register_buffer("step", torch.zeros(len(active.settings)))
        self.register_buffer("peak", torch.zeros(0, len(active.settings)))
        self.register_buffer("tops", torch.zeros(0, 1), persistent=False)

    def add_map(self, top: int) -> int:
        """Count one more map, whose largest code is `top`; returns its number."""
        number = len(self.tops)
        self.tops = torch.cat([self.tops, torch.full((1, 1), float(top))])
        self.peak = torch.full((number + 1, len(self.step)), _START)
        self.refresh()
        return number

    @torch.no_grad()
    def refresh(self, row: int | None = None) -> None:
        """Steps of the peaks there are, of one setting or all."""
        steps = (self.peak / self.tops).amax(0).clamp_min(LEAST_STEP)
        if row is None:
            self.step.copy_(steps)
        else:
            self.step[row] = steps[row]

    @torch.no_grad()
    def keep_rows(self, rows: list[int]) -> None:
        """Drop the steps of all other settings, in place."""
        self.step, self.peak = self.step[rows], self.peak[:, rows]

    def at(self, rows: Blend) -> float:
        """The step of a setting, or blended linearly of two, as BatchNorm tables are."""
        upper, lower, weight = rows
        one = float(self.step[upper])
        return one if weight == 0 else one + weight * (float(self.step[lower]) - one)

    def extra_repr(self) -> str:
        return f"maps={len(self.tops)}, resolutions={self.active.resolutions}"


class Bytes(nn.Module):
    """Rounds a map to bytes: step * min(max(round(x / step), low), high), halves to even.

    In training, moves its statistics. The first of the maps that share a step holds it, and brings
    it up to date before it rounds: within one forward the step stays.

    Gradient: 1 where the code is within its range, 0 beyond it.

    Args:
        scale: shared with the maps it is added to.
        unsigned: behind a ReLU; codes are then 0 to 255, else -128 to 127.
        clip: a ReLU6's 6.
    """

    def __init__(self, scale: ByteScale, unsigned: bool, clip: float | None = None) -> None:
        super().__init__()
        self.low, self.top = (0, 255) if unsigned else (-128, 127)
        self.clip = clip
        self.index = scale.add_map(self.top)
        # In a tuple it is no submodule: one map has it in its state.
        self._shared = (scale,)
        if self.index == 0:
            self.shared = scale

    @property
    def scale(self) -> ByteScale:
        return self._shared[0]

    @property
    def zero(self) -> int:
        """The byte of the value 0."""
        return -self.low

    def high(self, step: float) -> int:
        """The largest code."""
        return self.top if self.clip is None else min(self.top, clipped_at(self.clip, step))

    @torch.no_grad()
    def start_from(self, x: Tensor) -> tuple[float, float]:
        """A step that suits these values, in every setting.

        Returns:
            The squared error over the squared values, before and after; 0, 0 if nothing changed.
        """
        values = x.detach().float()
        power = values.double().square().sum()
        if not torch.isfinite(power) or power == 0:
            return 0.0, 0.0
        before = self._error(values)
        self.scale.peak[self.index] = values.abs().amax()
        self.scale.refresh()
        return float(before / power), float(self._error(values) / power)

    def _error(self, values: Tensor) -> Tensor:
        step = self.scale.step[self.scale.active.rows.i]
        return (values - self._rounded(values, step)).double().square().sum()

    def _rounded(self, x: Tensor, step: Tensor | float, top: int | None = None) -> Tensor:
        """Limited to codes from `low` to `top`, by default the largest, and rounded."""
        step = torch.as_tensor(step, dtype=x.dtype, device=x.device)
        high = torch.full_like(step, self.top if top is None else top)
        if top is None and self.clip is not None:  # on the device: training must not wait for it
            high = torch.round(self.clip / step).clamp_max(self.top)
        result: Tensor = _Round.apply(x, step, torch.full_like(step, self.low), high)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> float32 of the same shape."""
        scale, rows = self.scale, self.scale.active.rows
        x = x.float()
        if not self.training:
            step = scale.at(rows)
            return self._rounded(x, step, self.high(step))
        moves = not recomputing()
        if moves:
            check_forward(type(self).__name__)
            if self.index == 0:
                scale.refresh(rows.i)
        # A recomputation has the step of the forward.
        held = basis_of(self, scale.step[rows.i])
        if moves:
            with torch.no_grad():
                seen = largest(x.detach().abs().amax())
                scale.peak[self.index, rows.i].lerp_(seen, 1 - MOMENTUM)
        return self._rounded(x, held)

    def extra_repr(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip:g}"
        return f"codes {self.low} to {self.top}{clip}"
