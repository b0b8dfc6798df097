"""The training loop on networks that its user made."""

import dataclasses

import pytest
import torch
from shallow import RESNET10
from small_runs import Silent
from torch import nn

import rsquant
from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.data.shapes import shapes_source
from rsquant.errors import RsquantError
from rsquant.models.tensor_file import read_tensors
from rsquant.train import saved_state, training
from rsquant.train.loop import Trainer
from rsquant.train.state import TrainingState

CONFIG = RunConfig(
    train=TrainConfig(epochs=2, batch=8, lr=0.05, schedule="cosine", device="cpu"),
)
CONFIG = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, workers=0))


@pytest.fixture(scope="module")
def source():
    return shapes_source(0, 16, 8)


@pytest.fixture
def network(source):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, len(source.classes)),
    )
    return rsquant.convert(plain, 2, 2, (16, 12))


def modes(network):
    return {name: module.training for name, module in network.named_modules()}


def statistics(norm):
    return [norm.running_mean.clone(), norm.running_var.clone()]


def train(network, source, run, config=CONFIG, lines=None):
    echo = (lambda line: None) if lines is None else lines.append
    trainer = Trainer(network, source, config, run, torch.device("cpu"), Silent(), echo)
    return trainer.train()


@pytest.mark.parametrize("frozen", [1, 4])
def test_a_frozen_batchnorm_keeps_its_statistics_through_every_epoch(
    network, source, tmp_path, frozen
):
    network.train()
    network.body[frozen].eval()
    network.body[6].eval()
    before, modes_before = statistics(network.body[frozen]), modes(network)
    other = statistics(network.body[5 - frozen])
    train(network, source, tmp_path)
    after = statistics(network.body[frozen])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = statistics(network.body[5 - frozen])
    assert not any(torch.equal(a, b) for a, b in zip(other, moved, strict=True))
    assert modes(network) == modes_before


def test_a_network_in_evaluation_mode_is_trained_as_a_whole_and_gets_its_mode_back(
    network, source, tmp_path
):
    network.eval()
    before = statistics(network.body[1])
    train(network, source, tmp_path)
    assert not torch.equal(before[0], network.body[1].running_mean)
    assert not any(modes(network).values())


def test_modes_come_back_when_training_fails(network, source, tmp_path, monkeypatch):
    network.train()
    network.body[1].eval()
    before = modes(network)

    def fail(*args):
        raise KeyError

    monkeypatch.setattr(Trainer, "_step", fail)
    with pytest.raises(KeyError):
        train(network, source, tmp_path)
    assert modes(network) == before


class Killed(BaseException):
    """Nothing is saved after it, as after SIGKILL."""


class Clock:
    """In place of the module time: every look at it takes a minute."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 60
        return self.now


class KilledAfter(Silent):
    def __init__(self, steps):
        self.left = steps

    def advance(self, images, note):
        self.left -= 1
        if self.left < 0:
            raise Killed


RUN = RunConfig(
    ModelConfig(RESNET10, 2, 2, (32,), width=4),
    DataConfig("shapes", workers=0, train_images=20, val_images=8),
    TrainConfig(epochs=2, batch=4, lr=0.05, schedule="cosine", device="cpu", calibration=0),
)


def with_minutes(minutes):
    return dataclasses.replace(RUN, train=dataclasses.replace(RUN.train, save_minutes=minutes))


def tensors(run):
    return read_tensors(run / runs.STATE, TrainingState.FORMAT, TrainingState.VERSION)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    root = tmp_path_factory.mktemp("whole")
    return training.start(RUN, Silent(), lambda line: None, "whole", root=root)[0]


# Epochs have 5 steps and 2 validation batches.
@pytest.mark.parametrize("after,epoch", [(3, 0), (6, 0), (9, 1), (11, 1)])
def test_a_killed_run_continues_from_the_state_saved_in_the_middle_of_an_epoch(
    whole, tmp_path, monkeypatch, after, epoch
):
    monkeypatch.setattr(saved_state, "time", Clock())
    with pytest.raises(Killed):
        config = with_minutes(2.0)
        training.start(config, KilledAfter(after), lambda line: None, "cut", root=tmp_path)
    monkeypatch.undo()
    metadata = tensors(tmp_path / "cut")[1]
    assert metadata["epoch"] == epoch and metadata["step"] > 0
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = (tensors(run)[0] for run in (whole, tmp_path / "cut"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


@pytest.mark.parametrize("minutes,saved", [(0.0, False), (1000.0, False), (1.0, True)])
def test_the_state_is_saved_as_often_as_was_asked_for(tmp_path, monkeypatch, minutes, saved):
    monkeypatch.setattr(saved_state, "time", Clock())
    with pytest.raises(Killed):
        config = with_minutes(minutes)
        training.start(config, KilledAfter(4), lambda line: None, "cut", root=tmp_path)
    assert (tmp_path / "cut" / runs.STATE).is_file() == saved


def test_a_state_that_is_not_finite_is_not_saved_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_state, "time", Clock())
    original = Trainer._step

    def step(self, *args):
        original(self, *args)
        with torch.no_grad():
            self.network.body.fc.weight[0, 0] = float("nan")

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(RsquantError, match=r"fc\.weight has NaN values in epoch 1, step [12];"):
        training.start(with_minutes(1.0), Silent(), lambda line: None, "bad", root=tmp_path)
    assert not (tmp_path / "bad" / runs.STATE).exists()
