"""What classification measures beyond top-1, and its loss with weights, against formulas."""

import numpy as np
import pytest
import torch

from rsquant.tasks.classification import CLASSIFICATION, MOST_CONFUSED, Accuracy, Classification

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)  # no dog


def test_who_is_taken_for_whom_is_counted_over_batches(drawn):
    logits, labels = drawn
    accuracy = Accuracy()
    for part in (slice(0, 25), slice(25, 60)):
        accuracy.add(torch.tensor(logits[part]), torch.tensor(labels[part]))
    expected = np.zeros((4, 4), int)
    for label, best in zip(labels, logits.argmax(1), strict=True):
        expected[label, best] += 1
    details = accuracy.details(NAMES)
    assert details["confusion"] == expected.tolist()
    for i, row in enumerate(details["by_class"]):
        assert (row["class"], row["samples"]) == (NAMES[i], expected[i].sum())
        if i < 3:
            assert row["top1"] == pytest.approx(100 * expected[i, i] / expected[i].sum())
    assert details["by_class"][3] == {"class": "dog", "samples": 0, "top1": None}
    assert np.trace(expected) == accuracy.right1


def test_so_many_classes_have_no_matrix():
    accuracy = Accuracy()
    accuracy.add(torch.zeros(2, MOST_CONFUSED + 1), torch.tensor([0, MOST_CONFUSED]))
    assert accuracy.confusion is None and accuracy.details(()) == {"by_class": []}


@pytest.mark.parametrize("soft", [False, True])
def test_weights_of_classes_weigh_the_loss(drawn, soft):
    logits, labels = drawn
    weights = np.array([0.5, 2.0, 1.0, 7.0])
    logs = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    task = CLASSIFICATION.weighted(torch.tensor(weights, dtype=torch.float32))
    if soft:
        shares = np.random.default_rng(0).dirichlet(np.ones(4), 60)
        expected = -(shares * weights * logs).sum(1).mean()
        target = torch.tensor(shares, dtype=torch.float32)
    else:
        expected = -(weights[labels] * logs[np.arange(60), labels]).mean()
        target = torch.tensor(labels)
    assert float(task.loss(torch.tensor(logits), target)) == pytest.approx(expected, rel=1e-5)
    assert CLASSIFICATION.weights is None and isinstance(task, Classification)


def test_predictions_are_the_five_most_probable(drawn):
    logits, labels = drawn
    rows = CLASSIFICATION.predictions(torch.tensor(logits), torch.tensor(labels), NAMES)
    shares = np.exp(logits.astype(float))
    shares /= shares.sum(1, keepdims=True)
    for row, label, share in zip(rows, labels, shares, strict=True):
        order = (-share).argsort()
        assert row["label"] == NAMES[label]
        assert row["top5"] == [NAMES[i] for i in order] and row["prediction"] == NAMES[order[0]]
        assert row["probability"] == pytest.approx(share.max(), abs=1e-5)
        assert row["right"] == (order[0] == label)
