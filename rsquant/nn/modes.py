"""A mode for a block, after which every module has its own mode again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode inside the block.

    Networks are often in both modes at once (frozen BatchNorms, dropout that stays on), so
    `network.train(was_training)` is no way back.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def training_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into training mode inside the block.

    One that is in training mode already stays as it is: what is not is frozen (BatchNorms that
    keep their statistics, dropout that is off). One in evaluation mode, as a loaded one is, is
    switched as a whole.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        if not network.training:
            network.train()
        yield
    finally:
        for module, training in modes:
            module.training = training
