"""Activation checkpointing: blocks keep their inputs alone, and run again in backward.

About a third more time for the memory of one block and the blocks' inputs. Exact: a block that runs
again uses the bases and BatchNorm rows of its call and moves nothing (`quantizers.calls`).

Source: Chen et al. (arXiv 1604.06174), with torch.utils.checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint

from rsquant.errors import ModelError


def blocks(network: nn.Module) -> list[nn.Module]:
    """The largest parts to run again: children of a Sequential that hold several convolutions.

    Raises:
        ModelError: there are none.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in child.modules())
            nested = isinstance(child, nn.Sequential)
            if isinstance(module, nn.Sequential) and layers > 1 and not nested:
                found.append(child)
            else:
                look(child)

    look(network)
    if not found:
        raise ModelError(
            f"recompute: {type(network).__name__} has no blocks (parts of a Sequential with "
            "several convolutions); train without `recompute`"
        )
    return found


@contextmanager
def recomputed(parts: list[nn.Module]) -> Iterator[None]:
    """Inside, these modules keep no activations for backward; it may run after the block."""
    try:
        for part in parts:
            part.forward = functools.partial(
                checkpoint, part.forward, use_reentrant=False, preserve_rng_state=True
            )
        yield
    finally:
        for part in parts:
            del part.forward
