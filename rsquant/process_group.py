"""The processes that train one network together, and what they tell each other.

All collectives must be called by every process, in the same order. What passes between processes
are tensors and JSON, no pickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from rsquant.errors import PeerError

T = TypeVar("T")


class ProcessGroup:
    """One process of a group; the methods are collectives of torch.distributed's default group.

    Every method raises PeerError where another process is gone.

    Args:
        rank: its number, from 0.
        world: how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and the log."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Each number's sum over the processes, in float64."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        with peers():
            distributed.all_reduce(values)
        return values.tolist()

    def mean(self, values: Tensor, share: float) -> Tensor:
        """Sum over the processes of share * values: a mean, where the shares add up to 1.

        Args:
            values: floats of any shape, on the device of training; the result is a new tensor.
        """
        if self.world == 1:
            return values
        total = values * share
        with peers():
            distributed.all_reduce(total)
        return total

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace float tensors by their means over the processes, in place, in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.detach().flatten() for t in tensors])
        with peers():
            distributed.all_reduce(flat)
        flat /= self.world
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            dense = tensor.detach().contiguous()
            with peers():
                distributed.broadcast(dense, 0)
            if not self.is_first:
                tensor.copy_(dense)

    def bytes_of_first(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives in the first process, where alone it runs."""
        data = make() if self.is_first else b""
        if self.world == 1:
            return data
        length = torch.tensor([len(data)])
        with peers():
            distributed.broadcast(length, 0)
            content = torch.empty(int(length), dtype=torch.uint8)
            if self.is_first and data:
                # A copy: torch does not take memory that cannot be written.
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            if len(content):
                distributed.broadcast(content, 0)
        return content.numpy().tobytes()

    def of_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, where alone it runs: a JSON value."""
        if self.world == 1:
            return make()
        value: T = json.loads(self.bytes_of_first(lambda: json.dumps(make()).encode()))
        return value

    def gather(self, value: Any) -> list[Any]:
        """The JSON value of every process, by rank."""
        if self.world == 1:
            return [value]
        data = json.dumps(value).encode()
        lengths = [int(n) for n in self.sum(*(len(data) * (r == self.rank) for r in self.ranks))]
        own = torch.zeros(max(lengths), dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in self.ranks]
        with peers():
            distributed.all_gather(parts, own)
        return [
            json.loads(part.numpy().tobytes()[:n]) for part, n in zip(parts, lengths, strict=True)
        ]

    @property
    def ranks(self) -> range:
        """The numbers of all processes."""
        return range(self.world)


# A process that trains by itself: nothing is sent, and nothing is changed.
ALONE = ProcessGroup(0, 1)


@contextmanager
def peers() -> Iterator[None]:
    """Raise PeerError in place of what torch raises where another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if (lost := lost_peer(error)) is None:
            raise
        raise lost from error


def lost_peer(error: BaseException) -> PeerError | None:
    """The error to raise where one of torch's says that another process is gone; else None.

    torch raises RuntimeErrors without a class of their own for most of these.
    """
    if isinstance(error, PeerError):
        return error
    text = str(error)
    lost = isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(word in text for word in ("gloo", "NCCL", "Connection closed", "Connection reset"))
    )
    if not lost:
        return None
    return PeerError(
        "another process of this training has ended, or the connection to it was lost; what it "
        "said, if anything, is above"
    )
