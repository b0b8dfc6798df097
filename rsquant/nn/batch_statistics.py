"""BatchNorms that normalise by the batch in a network that is otherwise in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rsquant.nn.integer.layers import IntegerModule
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork


@contextmanager
def normalising_by_batches(network: SwitchableNetwork) -> Iterator[list[SwitchableBatchNorm2d]]:
    """Inside, BatchNorms normalise by the batch, as in training, and nothing else is in training.

    Frozen ones (in evaluation mode, in a network that is in training mode) normalise by their
    statistics, as they will in training. Modes and momenta are put back afterwards.

    Returns:
        The BatchNorms that are not frozen. Their momentum says how far a forward moves their
        statistics; set it inside.
    """
    norms = [
        m
        for m in network.modules()
        if isinstance(m, SwitchableBatchNorm2d) and (m.training or not network.training)
    ]
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluation_mode(network):
            for norm in norms:
                norm.train()
            for module in network.modules():
                if isinstance(module, IntegerModule):
                    module.training = True  # it normalises by the batch then
            yield norms
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
