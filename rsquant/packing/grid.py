"""A network on its integer grid: the network that a packed file computes."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.errors import ConfigError
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import LQActivationQuantizer, LQWeightQuantizer
from rsquant.quantizers.grid import limits, snapped


@dataclass(frozen=True)
class OnGrid:
    """A network whose levels are integers times a scale.

    Attributes:
        network: a copy on the CPU, in evaluation mode; it computes as it would when trained so.
        snapped: the network was trained without a grid, and put on one now.
        weight_change, activation_change: root mean square of the change of the bases by that,
            relative to the bases.
    """

    network: SwitchableNetwork
    snapped: bool
    weight_change: float
    activation_change: float


@torch.no_grad()
def on_grid(model: SwitchableNetwork, grid: str) -> OnGrid:
    """Put a network on an integer grid, unless it was trained on one.

    Weights are assigned anew, by the thresholds of the snapped levels, as training on the grid
    does.

    Args:
        grid: coarse or fine.
    Raises:
        ConfigError: another name.
    """
    weight_limit, activation_limit = limits(grid)
    if weight_limit is None:
        raise ConfigError(f"grid: must be coarse or fine to pack a network, got '{grid}'")
    network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    changes: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
    for module in network.modules():
        if isinstance(module, (LQWeightQuantizer, LQActivationQuantizer)) and module.grid is None:
            signed = isinstance(module, LQWeightQuantizer)
            module.grid = weight_limit if signed else activation_limit
            moved = snapped(module.basis, module.grid, signed)
            changes[signed].append((module.basis, moved - module.basis))
    if changes[True] or changes[False]:
        network.spec = dataclasses.replace(network.spec, grid=grid)
    return OnGrid(
        network, bool(changes[True] or changes[False]), _relative(changes[True]),
        _relative(changes[False]),
    )  # fmt: skip


def _relative(changes: list[tuple[Tensor, Tensor]]) -> float:
    """Root mean square over bases of |change| / |basis|; 0 for none."""
    ratios = [
        change.norm(dim=-1).flatten() / basis.norm(dim=-1).flatten().clamp_min(1e-30)
        for basis, change in changes
    ]
    return float(torch.cat(ratios).square().mean().sqrt()) if ratios else 0.0
