"""A run whose network is not finite stops, and keeps what it had."""

import dataclasses
import math
import os

import pytest
import torch
from small_runs import CONFIG as RUN
from small_runs import Silent, state, train

import rsquant
from rsquant import runs
from rsquant.errors import CheckpointError, RsquantError
from rsquant.evaluate.accuracy import Accuracy, Evaluation
from rsquant.models.tensor_file import write_tensors
from rsquant.tasks import DEFAULT, by_name
from rsquant.train import loop, training

CONFIG = dataclasses.replace(RUN, train=dataclasses.replace(RUN.train, calibration=0))


def test_training_on_too_high_a_rate_stops_with_advice(tmp_path):
    wild = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, train_images=96),
        train=dataclasses.replace(CONFIG.train, lr=1000.0, momentum=0.0, calibration=0),
    )
    with pytest.raises(RsquantError, match=r"nothing was saved yet; start .* lower `lr`"):
        train(tmp_path, "wild", config=wild)
    assert runs.LAST not in os.listdir(tmp_path / "wild")


def weight(trainer):
    return trainer.network.body.layer1[0].conv1.weight


def statistic(trainer):
    return trainer.network.body.bn1.running_var


def shared_basis(trainer):
    return trainer.network.body.layer1[0].act1.basis


def alpha(trainer):
    return trainer.alpha


def momentum(trainer):
    parameter = trainer.network.body.fc.bias
    return trainer.optimizer.state[parameter]["momentum_buffer"]


def spoil(monkeypatch, which, value, step):
    """From this step of the run on, one value of a tensor is wrong after each step."""
    original = loop.Trainer._step
    count = 0

    def spoiled(self, *args):
        nonlocal count
        original(self, *args)
        count += 1
        if count >= step:
            with torch.no_grad():
                tensor = which(self)
                tensor[(0,) * tensor.dim()] = value

    monkeypatch.setattr(loop.Trainer, "_step", spoiled)


# An epoch has 3 steps; the last one of the second is spoiled: no loss shows it.
@pytest.mark.parametrize(
    "which,value,message",
    [
        (weight, float("nan"), r"body\.layer1\.0\.conv1\.weight has NaN values in epoch 2, step 3"),
        (statistic, float("inf"), r"body\.bn1\.running_var has infinite values"),
        (statistic, -1.0, r"body\.bn1\.running_var has a negative variance"),
        (shared_basis, float("nan"), r"body\.layer1\.0\.act1\.basis has NaN values"),
        (weight, 1e35, r"conv1\.weight has values of up to 1\.0e\+35"),
        (alpha, float("nan"), r"alpha has NaN values"),
        (momentum, float("-inf"), r"momentum of body\.fc\.bias has infinite values"),
    ],
)
def test_what_is_not_finite_never_replaces_a_good_epoch(
    tmp_path, monkeypatch, which, value, message
):
    spoil(monkeypatch, which, value, 6)
    with pytest.raises(RsquantError, match=message) as error:
        train(tmp_path, "bad", config=CONFIG)
    run = tmp_path / "bad"
    assert f"{run} keeps the network of 1 epochs; start a new run with" in str(error.value)
    assert state(run)[1]["epoch"] == 1
    for name in (runs.BEST, runs.LAST):
        assert all(torch.isfinite(t).all() for t in rsquant.load(run / name).state_dict().values())


def test_stopping_does_not_save_what_is_not_finite(tmp_path, monkeypatch):
    spoil(monkeypatch, weight, float("nan"), 4)
    with pytest.raises(RsquantError, match=r"conv1\.weight has NaN values in epoch 2, step [12];"):
        train(tmp_path, "bad", stop_after=6, config=CONFIG)
    assert state(tmp_path / "bad")[1]["epoch"] == 1


def test_a_validation_that_overflows_stops_too(tmp_path, monkeypatch):
    infinite = Evaluation(by_name(DEFAULT), {}, [Accuracy(0, 0, math.inf, 1)] * 2)
    monkeypatch.setattr(loop, "evaluate", lambda *args, **more: infinite)
    with pytest.raises(RsquantError, match="the validation loss at 48 became inf"):
        train(tmp_path, "bad", config=CONFIG)


def test_a_state_that_is_not_finite_is_not_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 2, config=CONFIG)
    path = tmp_path / "cut" / runs.STATE
    tensors, metadata = state(tmp_path / "cut")
    tensors["model.body.fc.weight"][0, 0] = float("nan")
    write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"body\.fc\.weight has NaN values; start a new run"):
        training.resume(tmp_path / "cut", Silent(), lambda line: None)
