"""Accuracy figures, against counting by hand."""

import numpy as np
import pytest
import torch

import rsquant
from rsquant.data import evaluation_crop, normalise, open_source
from rsquant.data.images import UnreadableImage
from rsquant.errors import DataError
from rsquant.evaluate.accuracy import Accuracy, evaluate
from rsquant.nn import QuantConv2d, SwitchableBatchNorm2d


def test_top1_top5_and_loss_equal_counting_by_hand():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 8)), rng.integers(0, 8, 50)
    accuracy = Accuracy()
    for part in (slice(0, 20), slice(20, 50)):
        accuracy.add(torch.tensor(logits[part]), torch.tensor(labels[part]))
    ranks = (-logits).argsort(1)
    assert accuracy.top1 == pytest.approx(100 * np.mean(ranks[:, 0] == labels))
    five = np.mean([label in rank[:5] for label, rank in zip(labels, ranks, strict=True)])
    assert accuracy.top5 == pytest.approx(100 * five)
    log_sum = np.log(np.exp(logits).sum(1))
    assert accuracy.loss == pytest.approx(np.mean(log_sum - logits[np.arange(50), labels]))
    assert accuracy.samples == 50


def test_with_fewer_than_five_classes_top5_is_everything():
    accuracy = Accuracy()
    accuracy.add(torch.randn(10, 3), torch.randint(0, 3, (10,)))
    assert accuracy.top5 == 100


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = rsquant.create("resnet18", 2, 2, (48, 32), num_classes=12, width=8)
    return model, open_source("shapes", train_images=1, val_images=30).val


def test_every_size_is_the_network_on_the_centre_crop_at_that_size(case):
    model, split = case
    result = evaluate(model, split, (48, 40, 24), batch=7, workers=0)
    model.eval()
    for size in (48, 40, 24):
        right, loss = 0, 0.0
        for i in range(30):
            with torch.no_grad():
                x = normalise(evaluation_crop(split.image(i), size).unsqueeze(0))
                z = model(x)[0]
            right += int(z.argmax()) == split.label(i)
            loss -= float(torch.log_softmax(z, 0)[split.label(i)])
        assert result.sizes[size].samples == 30
        assert abs(result.sizes[size].right1 - right) <= 1  # a code at a threshold may flip
        assert result.sizes[size].loss == pytest.approx(loss / 30, rel=0.02)


def test_evaluation_leaves_the_network_as_it_was(case):
    model, split = case
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, split, batch=16, workers=0)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.held.value is None for m in model.modules() if isinstance(m, QuantConv2d))


def test_every_module_has_its_own_mode_again_even_after_an_error(case):
    model, split = case
    norms = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
    model.train()
    for norm in norms[::2]:
        norm.eval()
    modes = [m.training for m in model.modules()]
    evaluate(model, split, batch=16, workers=0)
    assert [m.training for m in model.modules()] == modes

    def stop(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, split, batch=16, workers=0, tick=stop)
    assert [m.training for m in model.modules()] == modes
    model.train()


def test_the_ensemble_is_counted_too(case):
    model, split = case
    result = evaluate(model, split, batch=16, workers=0, ensemble=lambda logits: logits[1])
    assert result.ensemble.right1 == result.sizes[32].right1
    assert result.ensemble.loss_sum == result.sizes[32].loss_sum


class _Broken:
    """A split some of whose images cannot be read."""

    def __init__(self, split, broken):
        self.split, self.broken = split, broken

    def __len__(self):
        return len(self.split)

    def label(self, i):
        return self.split.label(i)

    def name(self, i):
        return f"photo{i}.jpg"

    def image(self, i, min_side=None):
        if i in self.broken:
            raise UnreadableImage("truncated")
        return self.split.image(i, min_side)


def test_unreadable_images_are_named_and_too_many_stop_it(case):
    model, _ = case
    many = open_source("shapes", train_images=1, val_images=120).val
    lines = []
    result = evaluate(model, _Broken(many, {5}), (32,), batch=64, workers=0, log=lines.append)
    assert result.sizes[32].samples == 119
    assert lines == ["skipped unreadable image photo5.jpg: truncated"]
    with pytest.raises(DataError, match=r"2 of 120 images are unreadable \(at most 1 %"):
        evaluate(model, _Broken(many, {5, 7}), (32,), batch=64, workers=0)
