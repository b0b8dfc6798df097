"""A network on its integer grid: the network that a packed file computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rsquant.errors import ConfigError
from rsquant.nn.copying import copied
from rsquant.nn.reparametrized import bake_parametrizations
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import LQActivationQuantizer, LQWeightQuantizer
from rsquant.quantizers.codes import sorted_levels
from rsquant.quantizers.grid import limits, snap


@dataclass(frozen=True)
class GridCost:
    """What a grid costs the weights or the activations of a network.

    Attributes:
        bits, limit: of each basis, and its largest integer level; 0 where there is none.
        error: root mean square over bases of the change of the levels relative to the levels; 0
            where the network was trained on the grid.
        merged, bases: how many bases have fewer than 2**bits different levels, and how many there
            are: one per output channel of the weights, one per quantizer of activations.
    """

    bits: int = 0
    limit: int = 0
    error: float = 0.0
    merged: int = 0
    bases: int = 0


@dataclass(frozen=True)
class OnGrid:
    """A network whose levels are integers times a scale.

    Attributes:
        network: a copy on the CPU, in evaluation mode; it computes as it would when trained so.
        snapped: the network was trained without a grid, and put on one now.
        weights, activations: what the grid costs.
    """

    network: SwitchableNetwork
    snapped: bool
    weights: GridCost
    activations: GridCost


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
    if limits(grid)[0] is None:
        raise ConfigError(f"grid: must be coarse or fine to pack a network, got '{grid}'")
    network = copied(model.one_path_per_size()).cpu().float().eval().requires_grad_(False)
    bake_parametrizations(network.body)
    quantizers = [
        m for m in network.modules() if isinstance(m, (LQWeightQuantizer, LQActivationQuantizer))
    ]
    moved = [m for m in quantizers if m.grid is None]
    for module in moved:
        signed = isinstance(module, LQWeightQuantizer)
        module.grid = limits(grid, module.bits)[0 if signed else 1]
    if moved:
        network.spec = dataclasses.replace(network.spec, grid=grid)
    weights = [m for m in quantizers if isinstance(m, LQWeightQuantizer)]
    activations = [m for m in quantizers if isinstance(m, LQActivationQuantizer)]
    return OnGrid(network, bool(moved), _cost(weights, moved), _cost(activations, moved))


def _cost(
    quantizers: Sequence[LQWeightQuantizer | LQActivationQuantizer], moved: Sequence[nn.Module]
) -> GridCost:
    if not quantizers:
        return GridCost()
    ratios, merged = [], 0
    for module in quantizers:
        assert module.grid is not None
        signed = isinstance(module, LQWeightQuantizer)
        p, scale = snap(module.basis, module.grid, signed)
        levels, _ = sorted_levels(p.float(), module.pattern)
        merged += int((levels.diff(dim=-1) == 0).any(-1).sum())
        if any(m is module for m in moved):
            before = (module.basis.unsqueeze(-2) * module.pattern).sum(-1)
            after = (p * scale.unsqueeze(-1)).unsqueeze(-2) * module.pattern
            change = (after.sum(-1) - before).norm(dim=-1)
            ratios.append((change / before.norm(dim=-1).clamp_min(1e-30)).flatten())
    return GridCost(
        max(m.bits for m in quantizers),
        max(m.grid or 0 for m in quantizers),
        float(torch.cat(ratios).square().mean().sqrt()) if ratios else 0.0,
        merged,
        sum(m.basis[..., 0].numel() for m in quantizers),
    )
