"""Batches share memory one after the other, and none that is still used is written over."""

import gc

import numpy as np
import pytest
import torch

from rsquant.data import evaluation_batches
from rsquant.data.images import UnreadableImage
from rsquant.data.samples import WholeImageLabels
from rsquant.data.slots import Slots

SIZES = (12, 8)


class Noise:
    """Split of random images; each tenth cannot be read."""

    def __len__(self) -> int:
        return 60

    def label(self, i: int) -> int:
        return i

    def name(self, i: int) -> str:
        return f"noise/{i}"

    def image(self, i: int, min_side: int | None = None) -> torch.Tensor:
        if i % 10 == 9:
            raise UnreadableImage("empty file")
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class Wide(WholeImageLabels):
    """A task whose images are no squares."""

    def evaluation_sample(self, image, label, sizes):
        return [image[:, :size] for size in sizes], label


def addresses(batch):
    return tuple(images.data_ptr() for images in batch.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_used_again_and_what_is_held_stays(workers):
    reference = list(evaluation_batches(Noise(), SIZES, 4, 0))  # all held: of its own memory
    places, held = set(), {}
    for number, batch in enumerate(evaluation_batches(Noise(), SIZES, 4, workers)):
        places.add(addresses(batch))
        if number in (1, 5):  # a view of one size keeps all of the batch
            held[number] = batch.images[1][1:, :, 2:5].flip(3) if number == 1 else batch.images[0]
        for images, wanted in zip(batch.images, reference[number].images, strict=True):
            assert images.dtype == torch.uint8 and torch.equal(images, wanted)
            assert images.shape == wanted.shape
            assert images.is_contiguous(memory_format=torch.channels_last)
    assert len(places) <= 2 * workers + 3 < len(reference)
    assert torch.equal(held[1], reference[1].images[1][1:, :, 2:5].flip(3))
    assert torch.equal(held[5], reference[5].images[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_other_shapes_have_memory_of_their_own(workers):
    batches = list(evaluation_batches(Noise(), SIZES, 4, workers, Wide()))
    for number, batch in enumerate(batches):
        for i, index in enumerate(batch.indices.tolist()):
            assert index // 4 == number
            assert torch.equal(batch.images[0][i], Noise().image(index)[:, :12])


def test_without_memory_for_slots_batches_are_made_as_before(monkeypatch):
    reference = list(evaluation_batches(Noise(), SIZES, 4, 0))

    def refuse(*_):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    for batch, wanted in zip(evaluation_batches(Noise(), SIZES, 4, 2), reference, strict=True):
        assert torch.equal(batch.images[0], wanted.images[0])


def test_a_slot_is_free_when_the_last_view_of_it_ends():
    slots = Slots(1, 2, SIZES)
    slot = slots.take()
    assert slots.take() is None
    first, second = slots.lend(slot, 2)
    part = second[1]
    del first, second
    gc.collect()
    assert slots.take() is None
    del part
    gc.collect()
    assert slots.take() == slot


def test_a_slot_of_no_images_is_free_again():
    slots = Slots(1, 2, SIZES)
    images = slots.lend(slots.take(), 0)
    assert [tuple(part.shape) for part in images] == [(0, 3, 12, 12), (0, 3, 8, 8)]
    del images
    gc.collect()
    assert slots.take() == 0
