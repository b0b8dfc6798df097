"""Optimizers, label smoothing, clipping and early stopping: against formulas, and resumed."""

import dataclasses

import numpy as np
import pytest
import torch
from shallow import RESNET10
from small_runs import Silent, state

from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.errors import ConfigError
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.train import loop, training
from rsquant.train.check import check
from rsquant.train.metrics import read_metrics
from rsquant.train.optimizer import make_optimizer

CONFIG = RunConfig(
    ModelConfig(RESNET10, 2, 2, (32, 24), width=4),
    DataConfig("shapes", workers=0, train_images=24, val_images=12),
    TrainConfig(epochs=2, batch=8, lr=0.01, device="cpu", calibration=8),
)


def with_train(**changes):
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


def train(root, name, config, stop_after=None, lines=None):
    echo = (lambda line: None) if lines is None else lines.append
    return training.start(config, Silent(stop_after), echo, name, root=root)[0]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_is_the_published_rule(name):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
    weight = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    settings = TrainConfig(optimizer=name, lr=0.1, betas=(0.8, 0.95), weight_decay=0.2)
    optimizer = make_optimizer([{"params": [weight]}], settings)
    w, m, v = start.copy(), np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients, 1):
        weight.grad = torch.tensor(g)
        optimizer.step()
        if name == "adamw":
            w = w * (1 - 0.1 * 0.2)
        else:
            g = g + 0.2 * w
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        w = w - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer": "adam"}, marks=pytest.mark.slow),
        {"optimizer": "adamw", "betas": (0.8, 0.9), "weight_decay": 0.05},
        {"clip_norm": 0.5, "label_smoothing": 0.1, "nesterov": True},
    ],
)
def test_a_run_resumes_bit_for_bit(tmp_path, changes):
    config = with_train(**changes)
    train(tmp_path, "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", config, stop_after=4)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = (state(tmp_path / name) for name in ("whole", "cut"))
    assert expected[0].keys() == got[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(tensor, got[0][name]), name
    if "optimizer" in changes:
        assert any(name.endswith("exp_avg_sq") for name in expected[0])


def test_smoothing_spreads_a_label():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((20, 5), 0.2 / 5)
    target[np.arange(20), labels] += 0.8
    expected = -(target * logs).sum(1).mean()
    task = CLASSIFICATION.smoothed(0.2)
    assert float(task.loss(torch.tensor(logits), torch.tensor(labels))) == pytest.approx(expected)
    both = CLASSIFICATION.weighted(torch.ones(5, dtype=torch.float64)).smoothed(0.2)
    assert float(both.loss(torch.tensor(logits), torch.tensor(labels))) == pytest.approx(expected)


def test_gradients_are_clipped_together(tmp_path, monkeypatch):
    norms = []
    original = loop.make_optimizer

    def watched(groups, settings):
        optimizer = original(groups, settings)
        step = optimizer.step

        def stepped(*given, **named):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
            norms.append(float(sum(squares).sqrt()))
            return step(*given, **named)

        optimizer.step = stepped
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", watched)
    train(tmp_path, "free", with_train(epochs=1))
    free, norms[:] = list(norms), []
    train(tmp_path, "clipped", with_train(epochs=1, clip_norm=0.5))
    assert min(free) > 0.6 and len(norms) == len(free) == 3
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)


def test_training_ends_when_nothing_gets_better(tmp_path):
    # A rate too small to change a prediction: the first epoch stays the best.
    config = with_train(epochs=6, lr=1e-30, patience=2, norm_momentum=1e-9, calibration=0)
    model = dataclasses.replace(CONFIG.model, wbits=32, abits=32)  # no levels that move
    config = dataclasses.replace(config, model=model)
    lines = []
    run = train(tmp_path, "run", config, lines=lines)
    assert len(read_metrics(run)) == 3
    assert lines[-1].startswith("stopped after epoch 3: 2 epochs without a better mean of top-1")
    again = []
    assert training.resume(run, Silent(), again.append)[1] is None
    assert any("stopped after epoch 3" in line for line in again)
    assert len(read_metrics(run)) == 3


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"optimizer": "lion"}, "optimizer: must be sgd, adam or adamw, got 'lion'"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov: needs a `momentum` above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing: must be"),
        ({"clip_norm": 0.0}, "clip_norm: must be"),
        ({"patience": 0}, "patience: must be"),
        ({"betas": (0.9, 1.0)}, "betas: must be"),
    ],
)
def test_what_cannot_be_meant(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(with_train(**changes))
