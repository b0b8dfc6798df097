"""A batch in parts, one after the other, with the memory of one part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers.calls import using
from rsquant.quantizers.gathering import GATHERING, Gathering


@contextmanager
def parts_of_a_batch(
    network: SwitchableNetwork, rows: Sequence[int] | None = None
) -> Iterator[Gathering]:
    """Inside, forward and backward of the parts of a batch, each after a `begin_part`.

    Weights are quantized, and their bases moved, once; the gradients of the parts add up, and go
    on to the weights at the end. LQ's activation bases then move by the counts and sums of all
    parts; on a CUDA GPU, where one kernel counts and moves, and with other quantizers, they move in
    every part. BatchNorms use, and move by, each part alone.

    Args:
        rows: as of `forward_all`, in all parts.
    """
    gathering = Gathering()
    with network.weights_quantized_once(rows):
        layers = [m for m in network.modules() if isinstance(m, QUANTIZED_LAYERS)]
        layers = [layer for layer in layers if layer.weight_quantizer is not None]
        weights, leaves, held = [], [], []
        for layer in layers:
            own = {
                bits: (w, w.detach().requires_grad_(w.requires_grad))
                for bits, w in layer.held.value.items()
            }
            weights += [w for w, _ in own.values()]
            leaves += [leaf for _, leaf in own.values()]
            held.append((layer.held, {bits: leaf for bits, (_, leaf) in own.items()}))
        with using([*held, (GATHERING, gathering)]):
            yield gathering
    pairs = [
        (w, leaf.grad) for w, leaf in zip(weights, leaves, strict=True) if leaf.grad is not None
    ]
    if pairs:
        torch.autograd.backward([w for w, _ in pairs], [grad for _, grad in pairs])
    gathering.settle()
