"""The average of a network over its steps: what is validated and saved with `--ema`."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rsquant.nn.switchable import SwitchableNetwork

# Without a warm-up the first steps' average is mostly the random start.
_WARM_UP = 10


class Average:
    """An exponential moving average of parameters, BatchNorm statistics and bases.

    After step t: average += (1 - d) (network - average), d = min(decay, (1 + t) / (10 + t)), so
    that the start is forgotten soon. Integers are copied. Levels follow from the averaged bases.

    Args:
        network: that is trained.
        decay: 0 to 1, below 1.
    """

    def __init__(self, network: SwitchableNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._trained, self._decay = network, decay
        self._steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again with the network as it is."""
        self._steps.zero_()
        for own, value in self._pairs():
            own.copy_(value)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network after a step."""
        steps = int(self._steps) + 1
        self._steps.fill_(steps)
        share = 1 - min(self._decay, (1 + steps) / (_WARM_UP + steps))
        for own, value in self._pairs():
            if own.is_floating_point():
                own.lerp_(value, share)
            else:
                own.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, and the number of steps: what a run continues from."""
        return {**_tensors(self.network), "steps": self._steps}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        trained = _tensors(self._trained)
        return [(own, trained[name]) for name, own in _tensors(self.network).items()]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
