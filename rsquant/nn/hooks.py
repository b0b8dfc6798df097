"""Forward hooks that users put on layers: which of them change what the network computes.

A packed or exported file has layers and no hooks. One that looks on (a counter, a picture of the
features) may be left out; one that changes values must not be lost in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rsquant.errors import ModelError, RsquantError
from rsquant.nn.flow import tensors
from rsquant.nn.probe import evaluating, random_image
from rsquant.nn.switchable import SwitchableNetwork


def check_hooks_only_look(
    network: SwitchableNetwork,
    what: str,
    among: Callable[[nn.Module], bool] = lambda _: True,
    error: type[RsquantError] = ModelError,
) -> None:
    """Raise an error naming the first module with a forward hook that changes values.

    The network runs on a random image of its smallest size if it has hooks at all.

    Args:
        what: is made of the network, and has no hooks; "a packed file".
        among: which modules are looked at.
        error: what to raise.
    """
    names = {module: name for name, module in network.named_modules() if among(module)}
    hooked = {m: n for m, n in names.items() if m._forward_hooks or m._forward_pre_hooks}
    for module in changing(network, hooked):
        name = hooked[module].removeprefix("body.").replace("body", "") or "the network"
        kind = type(network.body if module is network else module).__name__
        raise error(
            f"{name}: has a forward hook that changes its values, and {what} has none; remove the "
            f"hook, or put what it does into the forward of the network ({kind})"
        )


def changing(network: SwitchableNetwork, hooked: Any) -> list[nn.Module]:
    """Modules among `hooked` with a forward hook that returns other values, or writes in place."""
    found: dict[nn.Module, None] = {}

    def watch(module: nn.Module, hook: Callable[..., Any], before: bool) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            given = list(tensors(args[1:]))
            versions = [x._version for x in given]
            result = hook(*args)
            instead_of = args[1:] if before else args[-1]
            same = result is None or _identities(result) == _identities(instead_of)
            if not same or [x._version for x in given] != versions:
                found[module] = None
            return result

        return watched

    if not hooked:
        return []
    kept = []
    try:
        for module in hooked:
            for hooks, before in (
                (module._forward_pre_hooks, True),
                (module._forward_hooks, False),
            ):
                kept.append((hooks, dict(hooks)))
                for key, hook in list(hooks.items()):
                    hooks[key] = watch(module, hook, before)
        # Tensors of inference mode count no writes.
        with torch.inference_mode(False), torch.no_grad(), evaluating(network):
            network(random_image(network.body, min(network.resolutions)))
    finally:
        for hooks, own in kept:
            hooks.update(own)
    return list(found)


def _identities(values: Any) -> list[int]:
    return [id(x) for x in tensors(values)]


@contextmanager
def without_forward_hooks(network: nn.Module) -> Iterator[None]:
    """No module of a network has forward hooks inside the block."""
    kept = []
    try:
        for module in network.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                kept.append((hooks, dict(hooks)))
                hooks.clear()
        yield
    finally:
        for hooks, own in kept:
            hooks.update(own)
