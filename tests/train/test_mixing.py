"""Mixup and CutMix: the same mixture at all sizes, by (seed, epoch, step), and training with it."""

import dataclasses

import numpy as np
import pytest
import torch
from small_runs import CONFIG, Silent, state, train
from torch.nn import functional

from rsquant.config import RunConfig
from rsquant.data.batch import Batch
from rsquant.errors import ConfigError
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.train import check, training
from rsquant.train.mixing import Mixing

SIZES = (48, 32, 20)
CPU = torch.device("cpu")


def batch(count=4):
    """One colour for each image, so that pixels tell where they are from."""
    colours = torch.tensor([10, 60, 130, 250][:count], dtype=torch.uint8).view(-1, 1, 1, 1)
    images = [colours.expand(count, 3, side, side).contiguous() for side in SIZES]
    return Batch(images, torch.tensor([0, 2, 1, 2][:count]), [], torch.arange(count))


def mixing(mixup=0.0, cutmix=0.0, seed=0):
    return Mixing(mixup, cutmix, 3, seed, CPU)


def test_none_leaves_the_batch():
    given = batch()
    assert mixing()(given, 0, 0) is given


@pytest.mark.parametrize("step", range(3))
def test_mixup_is_the_mean_of_neighbours_by_their_shares_of_the_label(step):
    given = batch()
    mixed = mixing(mixup=0.7)(given, 1, step)
    one_hot = np.eye(3)[given.labels.numpy()]
    # Of the first image, whose neighbour is the last.
    share = float(mixed.labels[0, 0])
    labels = share * one_hot + (1 - share) * np.roll(one_hot, 1, 0)
    np.testing.assert_allclose(mixed.labels, labels, atol=1e-6)
    for images, before in zip(mixed.images, given.images, strict=True):
        x = before.double().numpy()
        expected = share * x + (1 - share) * np.roll(x, 1, 0)
        assert images.dtype == torch.uint8
        # Half a unit of rounding, and float32.
        assert np.abs(images.numpy() - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("step", range(6))
def test_cutmix_pastes_the_same_region_at_all_sizes(step):
    given = batch()
    mixed = mixing(cutmix=1.0)(given, 1, step)
    boxes = []
    for images, before in zip(mixed.images, given.images, strict=True):
        rolled = before.roll(1, 0)
        pasted = (images != before).all(1)
        assert torch.equal(torch.where(pasted.unsqueeze(1), rolled, before), images)
        rows, columns = pasted[0].any(1).nonzero(), pasted[0].any(0).nonzero()
        assert all(torch.equal(one, pasted[0]) for one in pasted)
        assert int(pasted[0].sum()) == len(rows) * len(columns)  # a rectangle
        ends = [(0, 0)] * 2
        if len(rows):
            ends = [(int(found[0]), int(found[-1]) + 1) for found in (rows, columns)]
        boxes.append(np.array(ends) / images.shape[-1])
        half = 0.5 / images.shape[-1]
        if len(rows):
            assert np.abs(boxes[-1] - boxes[0]).max() <= half + 1e-9
    (top, bottom), (left, right) = boxes[0]
    share = 1 - (bottom - top) * (right - left)
    one_hot = np.eye(3)[given.labels.numpy()]
    expected = share * one_hot + (1 - share) * np.roll(one_hot, 1, 0)
    np.testing.assert_allclose(mixed.labels, expected, atol=1e-6)


def test_chance_is_of_seed_epoch_and_step_alone():
    def labels(seed, epoch, step):
        torch.rand(3)  # what others draw
        return mixing(0.5, 1.0, seed)(batch(), epoch, step).labels

    torch.manual_seed(5)
    before = torch.get_rng_state()
    mixing(0.5, 1.0)(batch(), 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(labels(0, 1, 2), labels(0, 1, 2))
    others = [labels(1, 1, 2), labels(0, 2, 2), labels(0, 1, 3), labels(0, 2, 1)]
    assert not any(torch.equal(labels(0, 1, 2), other) for other in others)


def test_with_both_a_batch_has_either():
    both = mixing(1.0, 1.0)
    colours = set(batch().images[0].unique().tolist())
    made = [set(both(batch(), 0, step).images[0].unique().tolist()) for step in range(12)]
    assert {found <= colours for found in made} == {True, False}


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 100.0])
def test_shares_of_any_alpha_are_shares(alpha):
    for made in (mixing(mixup=alpha), mixing(cutmix=alpha)):
        labels = made(batch(), 0, 0).labels
        assert (labels >= 0).all()
        torch.testing.assert_close(labels.sum(1), torch.ones(4))


def test_mixed_labels_have_the_loss_and_figures_of_their_shares():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    shares = torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])
    expected = -(shares * functional.log_softmax(logits, 1)).sum(1).mean()
    torch.testing.assert_close(CLASSIFICATION.loss(logits, shares), expected)
    assert CLASSIFICATION.step_figures(logits, shares)["top1"] == pytest.approx(37.5)
    certain = torch.eye(3)[[0, 1]]
    assert CLASSIFICATION.step_figures(logits, certain) == CLASSIFICATION.step_figures(
        logits, torch.tensor([0, 1])
    )


@pytest.mark.usefixtures("default_signals")
def test_training_with_it_resumes_to_the_same_bits(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, augment="trivialaugment"),
        train=dataclasses.replace(CONFIG.train, epochs=1, mixup=0.2, cutmix=1.0),
    )
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after=3, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None, workers=1)
    expected, got = (state(tmp_path / name)[0] for name in ("whole", "cut"))
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_other_tasks_refuse_it_by_name(monkeypatch):
    monkeypatch.setattr(type(CLASSIFICATION), "whole_image_labels", False)
    for section, name, value in (
        ("train", "mixup", 0.2),
        ("train", "cutmix", 1.0),
        ("data", "augment", "augmix"),
    ):
        config = RunConfig()
        part = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: part})
        with pytest.raises(ConfigError, match=f"{name}: changes images as a whole.*'classif"):
            check.check(config)
