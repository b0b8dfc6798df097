"""Weights that torch computes from other tensors: weight_norm, spectral_norm, pruning and the like.

What is quantized, packed and frozen is a layer's own weight. The old forms (hooks) compute it
before each forward of the layer and leave the last result as an attribute, which is old when
nothing has run since the last training step, and cannot be copied. The new form
(torch.nn.utils.parametrize) computes it whenever it is read, and stays correct; only what replaces
the layer loses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from rsquant.errors import ModelError, RsquantError


@dataclass(frozen=True)
class Reparametrization:
    """What computes a parameter of a layer.

    Attributes:
        parameter: its name in the layer.
        by: what computes it, in torch's words.
        removal: the call that leaves the computed value as the parameter, `layer` the layer.
        by_hook: one of the old forms.
    """

    parameter: str
    by: str
    removal: str
    by_hook: bool


def reparametrizations(module: nn.Module) -> Iterator[Reparametrization]:
    """What computes parameters of one module, its parts not included."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield _by_hook("weight_norm", hook.name, "remove_weight_norm")
        elif isinstance(hook, SpectralNorm):
            yield _by_hook("spectral_norm", hook.name, "remove_spectral_norm")
        elif isinstance(hook, prune.BasePruningMethod):
            yield _by_hook("pruning", hook._tensor_name, "prune.remove")
    if parametrize.is_parametrized(module):
        parts = module.parametrizations
        assert isinstance(parts, nn.ModuleDict)
        for name, steps in parts.items():
            assert isinstance(steps, nn.ModuleList)
            kinds = [type(step).__name__ for step in steps]
            by = " and ".join(_NAMES.get(kind, kind) for kind in kinds)
            removal = f"torch.nn.utils.parametrize.remove_parametrizations(layer, '{name}')"
            yield Reparametrization(name, f"the parametrization {by}", removal, False)


def _by_hook(by: str, parameter: str, removal: str) -> Reparametrization:
    return Reparametrization(parameter, by, f"torch.nn.utils.{removal}(layer, '{parameter}')", True)


# The names of the functions that users call.
_NAMES = {
    "_WeightNorm": "weight_norm",
    "_SpectralNorm": "spectral_norm",
    "_Orthogonal": "orthogonal",
}


@torch.no_grad()
def bake_parametrizations(network: nn.Module) -> None:
    """Make what parametrizations compute now the layers' own parameters, in place."""
    for module in list(network.modules()):
        if not parametrize.is_parametrized(module):
            continue
        assert isinstance(module.parametrizations, nn.ModuleDict)
        values = {name: getattr(module, name).clone() for name in module.parametrizations}
        # As remove_parametrizations does, which would also change the class of the module this
        # one was copied from: the two share it.
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def check_no_weight_hooks(
    network: nn.Module, before: str, error: type[RsquantError] = ModelError
) -> None:
    """Raise an error naming the first layer with a parameter that a hook computes.

    Args:
        network: the names of its layers are told.
        before: what needs the parameters themselves, as in "remove it before {before}".
        error: what to raise.
    """
    found = [
        (name or type(network).__name__, one)
        for name, module in network.named_modules()
        for one in reparametrizations(module)
        if one.by_hook
    ]
    if found:
        others = len({name for name, _ in found}) - 1
        raise error(_line(*found[0], before, others))


def check_own(name: str, layer: nn.Module, before: str) -> None:
    """Raise ModelError if a hook or a parametrization computes a parameter of one layer."""
    one = next(reparametrizations(layer), None)
    if one is not None:
        raise ModelError(_line(name, one, before))


def _line(name: str, one: Reparametrization, before: str, others: int = 0) -> str:
    more = f" (and those of {others} more layer{'s' if others > 1 else ''})" if others else ""
    return (
        f"{name}: its {one.parameter}{more} is computed by {one.by}; call {one.removal} on the "
        f"layer before {before}"
    )
