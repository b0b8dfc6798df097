"""Processes of a distributed training share an epoch: nothing is lost, nothing is there twice."""

import pytest
import torch
from noise import Noise

from rsquant.data import evaluation_batches, training_batches
from rsquant.errors import ConfigError

SIZES = (16, 12)


@pytest.mark.parametrize("world,workers", [(2, 0), (3, 2), (6, 0)])
def test_parts_of_ranks_in_their_order_are_the_batches_of_one_process(world, workers):
    alone = list(training_batches(Noise(40), SIZES, 12, 1, 7, 0))
    ranks = [
        list(training_batches(Noise(40), SIZES, 12, 1, 7, workers, rank=r, world=world))
        for r in range(world)
    ]
    assert [len(batches) for batches in ranks] == [3] * world
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert [len(part.labels) for part in parts] == [12 // world] * world
        assert torch.equal(whole.indices, torch.cat([part.indices for part in parts]))
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
        for s in range(len(SIZES)):
            assert torch.equal(whole.images[s], torch.cat([part.images[s] for part in parts]))


def test_a_rank_continues_in_the_middle_of_an_epoch():
    whole, rest = (
        list(training_batches(Noise(40), SIZES, 8, 0, 7, 0, skip=k, rank=1, world=2))
        for k in (0, 3)
    )
    assert len(rest) == 2
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.indices, b.indices) and torch.equal(a.images[0], b.images[0])


@pytest.mark.parametrize("count,world", [(11, 3), (2, 4), (40, 3)])
def test_evaluation_counts_every_image_once_in_batches_of_one_process(count, world):
    alone = [b.indices.tolist() for b in evaluation_batches(Noise(count), SIZES, 4, 0)]
    ranks = [
        [
            b.indices.tolist()
            for b in evaluation_batches(Noise(count), SIZES, 4, 0, rank=r, world=world)
        ]
        for r in range(world)
    ]
    assert sorted(batch for rank in ranks for batch in rank) == alone
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def test_the_only_batch_of_a_small_set_is_divided_as_evenly_as_possible():
    parts = [
        next(iter(training_batches(Noise(7), SIZES, 12, 0, 7, 0, rank=r, world=3))).indices
        for r in range(3)
    ]
    assert sorted(map(len, parts)) == [2, 2, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(7))


@pytest.mark.parametrize(
    "batch,world,given",
    [(10, 4, "multiple of the number of processes, 4, .* got 10; give 8 or 12"), (3, 4, "give 4$")],
)
def test_a_batch_that_does_not_divide_is_refused(batch, world, given):
    with pytest.raises(ConfigError, match=given):
        training_batches(Noise(40), SIZES, batch, 0, 7, 0, rank=0, world=world)


def test_a_rank_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="rank: must be 0 to 1 of 2 processes, got 2"):
        training_batches(Noise(40), SIZES, 8, 0, 7, 0, rank=2, world=2)
