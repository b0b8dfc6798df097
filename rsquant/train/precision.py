"""Automatic mixed precision: which dtype, and the scale of the loss that float16 needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast, and torch's GradScaler; what the scaler has reached is part of a run's state.

    float16 has no numbers below 6e-8, so the loss is multiplied by a large scale. A step whose
    gradients overflow is left out, and the scale halved; after 2,000 good ones it is doubled.

    Args:
        amp: one of `choices.AMP`.
        device: of the network.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self._device, self._dtype = device, _DTYPES.get(amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled, and the state has a part for it."""
        return bool(self.scaler.is_enabled())

    def autocast(self) -> AbstractContextManager[Any]:
        """Where forward runs."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, which are scaled until `update`."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Make gradients what they are, before anything looks at them (clipping)."""
        if self.scales:
            self.scaler.unscale_(optimizer)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step, unless a gradient overflowed."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """The scale, and the number of good steps since it changed: float32 scalars."""
        state = self.scaler.state_dict()
        return {
            "scale": torch.tensor(float(state["scale"])),
            "good_steps": torch.tensor(float(state["_growth_tracker"])),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        state = self.scaler.state_dict()
        state["scale"] = float(tensors["scale"])
        state["_growth_tracker"] = int(tensors["good_steps"])
        self.scaler.load_state_dict(state)
