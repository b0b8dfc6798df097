"""Which layers of a network stay in float32 when it is converted, and why."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

from rsquant.errors import ConfigError
from rsquant.nn.conversion import HEAD, READS_IMAGE
from rsquant.nn.probe import Probe

QUANTIZABLE = (nn.Conv2d, nn.Linear)
# Layers with weights that have no low-bit form. The last two compute with their parts' weights.
_FLOAT_ONLY = (
    _ConvNd,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
)


def kept_layers(layers: Probe) -> dict[str, str]:
    """Layers that stay in float32 unless a user says which, and why, in the order they run."""
    why = {name: READS_IMAGE for name in layers.order if name in layers.readers}
    for name in layers.order:
        if name in layers.heads:
            why[name] = f"{READS_IMAGE}, {HEAD}" if name in why else HEAD
    return why


def named_layers(network: nn.Module, keep: Collection[str], left: Collection[str]) -> list[str]:
    """The layers that names in `keep` cover: themselves, and everything below them.

    Raises:
        ConfigError: a name that covers nothing with weights, naming the nearest that does.
    """
    # A layer under two names is known by its first.
    first = {module: name for name, module in reversed(list(network.named_modules()))}
    layers = {
        name: first[module]
        for name, module in network.named_modules(remove_duplicate=False)
        if first[module] in left
        or (isinstance(module, QUANTIZABLE) and not is_below(first[module], left))
    }
    covered: dict[str, None] = {}
    for name in [keep] if isinstance(keep, str) else keep:
        below = [own for other, own in layers.items() if is_below(other, [name])]
        if not below:
            parts = (layer.split(".") for layer in layers)
            names = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
            near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)
            exists = name in dict(network.named_modules(remove_duplicate=False))
            what = (
                f"'{name}' has no Conv2d or Linear to keep"
                if exists
                else f"{type(network).__name__} has no layer named '{name}'"
            )
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise ConfigError(f"keep: {what}{hint}")
        covered |= dict.fromkeys(below)
    return list(covered)


def unquantizable(network: nn.Module, layers: Probe) -> dict[str, str]:
    """Names of what has weights and no low-bit form, and why it stays in float32.

    Layers of other kinds, parameters that a forward multiplies with itself, and layers whose
    weights it takes instead of calling them.
    """
    who = type(network).__name__
    left: dict[str, str] = {}
    for name, module in network.named_modules():
        if is_below(name, left):
            continue
        if isinstance(module, _FLOAT_ONLY) and not isinstance(module, nn.Conv2d):
            left[name] = f"{type(module).__name__} has no low-bit form"
    known = dict(left)
    for use in layers.uses:
        where = f"{use.operation} in {use.module or who}"
        for parameter in sorted(use.parameters):
            owner = parameter.rpartition(".")[0]
            if is_below(owner, known):
                continue
            if not isinstance(network.get_submodule(owner), QUANTIZABLE):
                left[parameter] = f"parameter used by {where}"
            elif owner in layers.order:
                left[parameter] = f"also used by {where}, without calling the layer"
            else:
                left[owner] = f"weight used by {where}, without calling the layer"
        if not use.parameters and not is_below(use.module, known):
            left[use.module or who] = f"{use.operation} with a weight that is not a parameter of it"
    return left


def idle_in_probe(network: nn.Module, layers: Probe, left: Collection[str]) -> list[str]:
    """Conv2d and Linear layers that no run has shown."""
    names = [name for name, module in network.named_modules() if isinstance(module, QUANTIZABLE)]
    return [name for name in names if name not in layers.order and not is_below(name, left)]


def is_below(name: str, modules: Collection[str]) -> bool:
    """Whether a name is one of these modules', or of something inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def bypassed_layers(network: nn.Module, left: Collection[str]) -> list[str]:
    """Conv2d and Linear layers that must not be replaced: their forward is not what runs."""
    whole = [name for name in left if _is_bypassing(network, name)]
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, QUANTIZABLE) and is_below(name, whole)
    ]


def _is_bypassing(network: nn.Module, name: str) -> bool:
    modules = dict(network.named_modules())
    return isinstance(modules.get(name), (*QUANTIZABLE, *_FLOAT_ONLY))


def layers_and_why_float(
    body: nn.Module, kept: Mapping[str, str], left: Mapping[str, str]
) -> dict[str, str | None]:
    """Every layer with weights, and why it stays in float32; None for one that does not."""
    why = {**left, **kept}
    return {
        name: next((why[one] for one in why if is_below(name, [one])), None)
        for name, module in body.named_modules()
        if isinstance(module, (*QUANTIZABLE, *_FLOAT_ONLY)) or name in why
    }
