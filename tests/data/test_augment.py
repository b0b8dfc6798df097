"""Augmentations by name: by the sample's own chance, the same at all sizes."""

import numpy as np
import pytest
import torch

from rsquant.choices import AUGMENTATIONS
from rsquant.data.augment import augmented
from rsquant.data.loader import training_batches
from rsquant.data.shapes import shapes_source
from rsquant.data.transforms import RATIO, crop_box, resize, training_crop

NAMES = AUGMENTATIONS[1:]


def photograph(height=40, width=56):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([3 * x + y, 4 * y, 255 - 2 * x - y]).remainder(256).to(torch.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_images_by_the_given_generator_alone(name):
    image = photograph()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = [augmented(image, name, np.random.default_rng(i)) for i in range(6)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again = [augmented(image, name, np.random.default_rng(i)) for i in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(one.shape == image.shape and one.dtype == torch.uint8 for one in first)
    assert len({one.numpy().tobytes() for one in first}) > 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (2, 40)])
def test_the_smallest_crops_are_taken(name, shape):
    for seed in range(8):
        image = photograph(*shape)
        assert augmented(image, name, np.random.default_rng(seed)).shape == image.shape


def test_all_sizes_show_the_same_change():
    rng = np.random.default_rng(1)
    sizes = (32, 24)
    made = training_crop(photograph(), sizes, rng, (1.0, 1.0), flip=False, augment="randaugment")
    same = np.random.default_rng(1)
    # The crop's own draws come first.
    top, left, h, w = crop_box(40, 56, same, (1.0, 1.0), RATIO)
    changed = augmented(photograph()[:, top : top + h, left : left + w], "randaugment", same)
    for image, size in zip(made, sizes, strict=True):
        assert torch.equal(image, resize(changed, size, size))


def test_none_draws_nothing():
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    image = photograph()
    assert augmented(image, "none", rng) is image
    assert rng.random() == other.random()


def test_batches_do_not_depend_on_the_workers():
    split = shapes_source(0, 12, 4).train

    def images(workers, skip=0):
        batches = training_batches(split, (24, 16), 4, 2, 0, workers, skip=skip, augment="augmix")
        return [x for batch in batches for x in batch.images]

    alone = images(0)
    assert all(torch.equal(a, b) for a, b in zip(alone, images(2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone[2:], images(0, skip=1), strict=True))
