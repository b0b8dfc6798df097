"""The training loop on networks that its user made."""

import dataclasses

import pytest
import torch
from torch import nn

import rsquant
from rsquant.config import RunConfig, TrainConfig
from rsquant.data.shapes import shapes_source
from rsquant.train.loop import Trainer

CONFIG = RunConfig(
    train=TrainConfig(epochs=2, batch=8, lr=0.05, schedule="cosine", device="cpu"),
)
CONFIG = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, workers=0))


class Silent:
    def start(self, *args):
        pass

    def advance(self, images, note):
        pass


@pytest.fixture(scope="module")
def source():
    return shapes_source(0, 16, 8)


@pytest.fixture
def network(source):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, len(source.classes)),
    )  # fmt: skip
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
