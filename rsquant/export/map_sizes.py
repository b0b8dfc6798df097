"""The sizes of an integer network's maps, which its ONNX graph has as constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.switchable import SwitchableNetwork


@dataclass(frozen=True)
class Sizes:
    """Sizes of maps, for images of one size.

    Attributes:
        maps: by name of a module, channels, height and width of what it reads.
        resized: by name of a resize, the size that its call has; None: it has its own.
        logits: without the number of images.
    """

    maps: dict[str, tuple[int, int, int]]
    resized: dict[str, Any]
    logits: tuple[int, ...]


def sizes_of(model: SwitchableNetwork, resolution: int) -> Sizes:
    """Sizes at one resolution, found by a run of the network; it must be at this size."""
    maps: dict[str, tuple[int, int, int]] = {}
    resized: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and inputs[0].dim() == 4:
                channels, height, width = inputs[0].shape[1:]
                maps[name] = channels, height, width
            if isinstance(module, IntegerResize):
                resized[name] = inputs[1] if len(inputs) > 1 else None

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name)) for name, module in model.body.named_modules()
    ]
    try:
        logits = model(torch.zeros(1, 3, resolution, resolution))
    finally:
        for one in hooks:
            one.remove()
    return Sizes(maps, resized, tuple(logits.shape[1:]))
