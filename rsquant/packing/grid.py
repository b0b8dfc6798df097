"""A network on its integer grid: the network that a packed file computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.errors import ConfigError, PackError
from rsquant.nn.copying import copied
from rsquant.nn.reparametrized import bake_parametrizations
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packing.obstacle import formless
from rsquant.quantizers import (
    ActivationQuantizer,
    IntegerForm,
    Quantizer,
    WeightQuantizer,
    quantizers_of,
)
from rsquant.quantizers.grid import limits

# Of the largest level: float32 rounding of sums of a few basis values.
_ROUNDING = 1e-5


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
        PackError: a quantizer has no integer form.
    """
    if limits(grid)[0] is None:
        raise ConfigError(f"grid: must be coarse or fine to pack a network, got '{grid}'")
    network = copied(model.one_path_per_size()).cpu().float().eval().requires_grad_(False)
    bake_parametrizations(network.body)
    quantizers = quantizers_of(network)
    before = {m: m.levels() for m in quantizers if m.grid is None}
    for module in quantizers:
        if found := formless(module):
            raise PackError(found)
    for module in before:
        weights_limit, activations_limit = limits(grid, module.bits)
        module.grid = weights_limit if isinstance(module, WeightQuantizer) else activations_limit
    if before:
        network.spec = dataclasses.replace(network.spec, grid=grid)
    weights = _cost([m for m in quantizers if isinstance(m, WeightQuantizer)], before)
    activations = _cost([m for m in quantizers if isinstance(m, ActivationQuantizer)], before)
    return OnGrid(network, bool(before), weights, activations)


def _check_levels(quantizer: Quantizer, form: IntegerForm) -> None:
    """The integer form must have the levels that the quantizer has."""
    levels = quantizer.levels()
    if not torch.isfinite(levels).all():
        return  # which is refused by name of the tensor
    own = form.scale.unsqueeze(-1) * form.integers()
    who = f"the quantizer '{quantizer.kind or type(quantizer).__name__}': on_grid must give"
    if form.basis.is_floating_point() or form.offset.is_floating_point():
        raise PackError(f"{who} basis and offset as integers, got {form.basis.dtype}")
    if own.shape != levels.shape:
        raise PackError(f"{who} levels of shape {tuple(levels.shape)}, got {tuple(own.shape)}")
    near = torch.allclose(own, levels, 0.0, _ROUNDING * float(levels.abs().max()))
    if not near or bool((own.diff(dim=-1) < 0).any()) or bool((form.scale < 0).any()):
        raise PackError(
            f"{who} its levels, lowest first, with a scale that is not negative; it gives "
            f"{_first(own)}, and its levels are {_first(levels)}"
        )


def _first(levels: Tensor) -> str:
    """The levels of the first channel."""
    return ", ".join(f"{level:g}" for level in levels.reshape(-1, levels.shape[-1])[0].tolist())


def _cost(quantizers: Sequence[Quantizer], before: Mapping[Quantizer, Tensor]) -> GridCost:
    """What the grid costs these; `before`: levels of those that had none, without it."""
    if not quantizers:
        return GridCost()
    ratios, merged, bases = [], 0, 0
    for module in quantizers:
        form = module.on_grid()
        _check_levels(module, form)
        integers = form.integers()
        merged += int((integers.diff(dim=-1) == 0).any(-1).sum())
        bases += integers[..., 0].numel()
        if module in before:
            change = (module.levels() - before[module]).norm(dim=-1)
            ratios.append((change / before[module].norm(dim=-1).clamp_min(1e-30)).flatten())
    return GridCost(
        max(m.bits for m in quantizers),
        max(m.grid or 0 for m in quantizers),
        float(torch.cat(ratios).square().mean().sqrt()) if ratios else 0.0,
        merged,
        bases,
    )
