"""Evaluation mode for a block, after which every module has its own mode again."""

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
