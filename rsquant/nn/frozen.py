"""Layers that training leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from rsquant.errors import ConfigError
from rsquant.nn.precision import nearest
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.text import brief


def freeze_layers(network: SwitchableNetwork, patterns: Sequence[str]) -> list[str]:
    """Keep layers as they are: their parameters, statistics and bases.

    Bases are fitted to data before training, unless they came with their layers; then they are
    still, too. A frozen layer normalises by its statistics and keeps its dropout off, as in
    evaluation. What it computes passes gradients on to the layers before it.

    Args:
        network: in training mode; its frozen modules are put into evaluation mode, in which
            training leaves them.
        patterns: shell-style, of names of modules in its body; a name also means all inside it:
            "layer1", "layer[12].*", "*bn*".
    Returns:
        The names of the frozen modules that hold parameters themselves.
    Raises:
        ConfigError: a pattern that matches nothing, nothing left to train, or an integer network,
            whose layers compute integers in evaluation, through which no gradient passes.
    """
    if not patterns:
        return []
    if network.spec.integer:
        raise ConfigError("freeze: layers of an integer network cannot be frozen; leave it out")
    modules = dict(network.body.named_modules())
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in modules if name and fnmatchcase(name, pattern)]
        if not found:
            near = nearest(pattern, [name for name in modules if name])
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise ConfigError(f"freeze: {brief(pattern)} matches no layer{hint}")
        chosen.update(found)
    for name in chosen:
        modules[name].requires_grad_(False)
        modules[name].eval()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("freeze: leaves nothing to train; freeze fewer layers")
    return [name for name, module in modules.items() if _is_frozen(module)]


def _is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
