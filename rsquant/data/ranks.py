"""Which part of an epoch each process of a distributed training has."""

from __future__ import annotations

from typing import TypeVar

from rsquant.errors import ConfigError

_T = TypeVar("_T")


def check_world(batch: int, rank: int, world: int) -> None:
    """Raise ConfigError unless a batch of the whole training divides among its processes.

    Args:
        batch: images of all processes together.
        rank: number of this process, from 0.
        world: how many processes there are.
    """
    if not 0 <= rank < world:
        raise ConfigError(f"rank: must be 0 to {world - 1} of {world} processes, got {rank}")
    if batch % world:
        lower = batch - batch % world
        nearest = " or ".join(str(n) for n in (lower, lower + world) if n)
        raise ConfigError(
            f"batch: must be a multiple of the number of processes, {world}, since it is the batch "
            f"of all together; got {batch}; give {nearest}"
        )


def training_part(batch: list[_T], rank: int, world: int) -> list[_T]:
    """A process's part of a step's images: neighbours, so that parts by rank are the batch.

    Parts are of one size where `world` divides the batch, else their sizes differ by at most 1.
    """
    return batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]


def evaluation_part(batches: list[_T], rank: int, world: int) -> list[_T]:
    """A process's batches: whole ones, as a single process has them; none on two, none padded."""
    return batches[rank::world]
