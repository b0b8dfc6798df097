"""Averages of a network's weights over the steps of its training (EMA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rsquant.models.shared_memory import is_expanded
from rsquant.nn.copying import copied
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer


class Average:
    """A copy of a network whose parameters and buffers are averages of the network's.

        a <- w                            at the first update
        a <- d a + (1 - d) w              at update t = 1, 2, ..
        d = min(decay, (1 + t) / (10 + t))

    so that a short training's average is of its last steps too. BatchNorm statistics and the levels
    of quantizers are averaged like weights: they move by small steps, without jumps, and what fits
    the weights of many steps fits, on average, their average. Integers are those of the last step.

    A part of the training state: its values continue exactly.

    Args:
        network: in training; it is copied, and averaged from the first `update` on.
        decay: of the past in each update, 0 up to 1.

    Attributes:
        network: the averages, to evaluate and save; in evaluation mode.
        updates: how many there were.
    Source: Polyak and Juditsky (1992); the first updates as TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: SwitchableNetwork, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._trained = network
        self.network = copied(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is after a step."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        for own, other in zip(_tensors(self.network), _tensors(self._trained), strict=True):
            if keep and own.is_floating_point():
                own.lerp_(other, 1 - keep)
            else:
                own.copy_(other)
        if not self.updates:
            self._follow_signs()
        self.updates += 1

    def restart(self) -> None:
        """Forget what was averaged; the next update is the first."""
        self.updates = 0

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, and the number of updates, an int64 scalar."""
        values = {k: v for k, v in self.network.state_dict().items() if isinstance(v, Tensor)}
        return {**values, "updates": torch.tensor(self.updates)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.updates = int(tensors["updates"])
        for name, value in self.network.state_dict().items():
            if isinstance(value, Tensor) and not is_expanded(value):
                value.copy_(tensors[name])
        self._follow_signs()

    def _follow_signs(self) -> None:
        # No tensor says so: which inputs have negative values was found when a network was made.
        for own, other in zip(self.network.modules(), self._trained.modules(), strict=True):
            if isinstance(own, ActivationQuantizer) and isinstance(other, ActivationQuantizer):
                own.signed = other.signed


def _tensors(network: SwitchableNetwork) -> Iterator[Tensor]:
    """Each once, though layers may share it; torch copies to no expanded one."""
    yield from network.parameters()
    for buffer in network.buffers():
        if not is_expanded(buffer):
            yield buffer
