"""Statistics of a batch whose parts are in several processes.

Inside `over_processes` each function gives every process what one process would have computed from
the whole batch, the same bits in all. Elsewhere values stay as they are: an evaluation, or a
calibration that every process makes on the same images, is its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from rsquant.quantizers.calls import PerCall, using

_SHARED = PerCall(False)


@contextmanager
def over_processes() -> Iterator[None]:
    """Take statistics over all processes of torch.distributed's default group, in this thread.

    All processes must run the same layers in the same order inside the block.
    """
    with using([(_SHARED, True)]):
        yield


def shared() -> bool:
    """Whether statistics are those of all processes here."""
    return bool(_SHARED.value) and distributed.is_initialized()


def summed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums over the processes, new tensors of the same shapes; they have one shape and dtype."""
    if not shared():
        return tensors
    return tuple(total(torch.stack(tensors)))


def total(x: Tensor) -> Tensor:
    """The sum of the tensors of all processes, added in the order of ranks.

    So all have the same bits, whatever algorithm a message takes, and so has a second run.
    """
    first, *others = gathered(x)
    for other in others:
        first += other
    return first


def largest(x: Tensor) -> Tensor:
    """The largest over the processes, elementwise; a NaN stays."""
    if not shared():
        return x
    return torch.stack(gathered(x)).amax(0)


def spread(x: Tensor, most: int) -> Tensor:
    """At most so many values of (n,) tensors, evenly spread over those of all processes in a row.

    Args:
        x: of this process; the number may differ between processes.
        most: of values that are returned.
    """
    if not shared():
        return x[:: max(1, -(-x.numel() // most))]
    # Known without the device, so nothing waits for it.
    lengths = [int(n) for n in gathered(torch.tensor([x.numel()]))]
    stride = max(1, -(-sum(lengths) // most))
    before = sum(lengths[: distributed.get_rank()])
    mine = x[-before % stride :: stride]
    padded = mine.new_zeros(-(-max(lengths) // stride))
    padded[: mine.numel()] = mine
    starts = [-sum(lengths[:rank]) % stride for rank in range(len(lengths))]
    counts = [max(0, -(-(n - s) // stride)) for n, s in zip(lengths, starts, strict=True)]
    return torch.cat([part[:n] for part, n in zip(gathered(padded), counts, strict=True)])


def gathered(x: Tensor) -> list[Tensor]:
    """The tensor of every process, by rank; one shape and dtype."""
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x)
    return parts
