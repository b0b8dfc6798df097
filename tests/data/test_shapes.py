"""The built-in set is the same everywhere, balanced, and differs where it should."""

import numpy as np
import torch

from rsquant.data import open_source
from rsquant.data.shapes import CLASSES, draw


def test_an_image_depends_only_on_seed_part_and_index() -> None:
    large = open_source("shapes", seed=3, train_images=14, val_images=2)
    small = open_source("shapes", seed=3, train_images=2, val_images=1)
    assert torch.equal(large.train.image(1), small.train.image(1))
    assert not torch.equal(large.train.image(0), large.val.image(0))
    assert not torch.equal(large.train.image(0), large.train.image(12))
    other = open_source("shapes", seed=4, train_images=1, val_images=1)
    assert not torch.equal(large.train.image(0), other.train.image(0))


def test_images_are_uint8_rgb_and_classes_balanced() -> None:
    source = open_source("shapes", train_images=24, val_images=12)
    assert len(source.classes) == 12 and source.classes == tuple(sorted(source.classes))
    assert np.bincount([source.train.label(i) for i in range(24)]).tolist() == [2] * 12
    image = source.train.image(0)
    assert image.shape == (3, 128, 128) and image.dtype == torch.uint8


def test_classes_share_background_and_differ_in_the_shape() -> None:
    # The same draws, another class: only pixels under either outline change.
    disc = draw(CLASSES.index("disc"), np.random.default_rng(1)).astype(int)
    square = draw(CLASSES.index("square"), np.random.default_rng(1)).astype(int)
    changed = (disc != square).any(2).mean()
    assert 0.005 < changed < 0.5
