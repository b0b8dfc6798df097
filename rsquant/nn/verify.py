"""Whether the layers that a conversion made are those that run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rsquant.errors import ModelError
from rsquant.nn.norm import SwitchableBatchNorm1d, SwitchableBatchNorm2d
from rsquant.nn.probe import evaluating, random_image
from rsquant.nn.quantized import QUANTIZED_LAYERS

# What every forward of a layer calls, however the forward itself is called.
_CALLED: dict[type[nn.Module], str] = {
    SwitchableBatchNorm1d: "at_rows",
    SwitchableBatchNorm2d: "at_rows",
    **dict.fromkeys(QUANTIZED_LAYERS, "quantized_weight"),
}


@torch.no_grad()
def idle_layers(network: nn.Module, body: nn.Module, sizes: Sequence[int]) -> list[str]:
    """Names, in `body`, of quantized layers and switchable BatchNorms that run at no size.

    A forward may hold layers of the network that was copied (in a closure, say): those run then,
    and the copy's do not.

    Args:
        network: takes images and runs `body`.
        sizes: in pixels; as many are run as it takes.
    Raises:
        ModelError: the network does not run.
    """
    idle: dict[str, nn.Module] = {
        name: module for name, module in body.named_modules() if type(module) in _CALLED
    }
    watched = list(idle.items())

    def watch(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            idle.pop(name, None)
            return original(*args)

        return called

    try:
        for name, module in watched:
            called = _CALLED[type(module)]
            module.__dict__[called] = watch(name, getattr(module, called))
        for size in reversed(sizes):
            if not idle:
                break
            try:
                with evaluating(network):
                    network(random_image(body, size))
            except Exception as error:  # whatever a user's forward raises
                reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
                raise ModelError(
                    f"{type(body).__name__}: does not run at {size} pixels once it is converted: "
                    f"{reason}; its forward may use attributes of layers that a converted layer "
                    "does not have"
                ) from error
    finally:
        for _, module in watched:
            module.__dict__.pop(_CALLED[type(module)], None)
    return list(idle)
