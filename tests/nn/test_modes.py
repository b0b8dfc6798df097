"""Every module keeps its own mode through whatever runs a network in evaluation mode."""

import pytest
import torch
from torch import nn

import rsquant
from rsquant.nn.modes import evaluation_mode


def mixed(training):
    """A network whose BatchNorm and dropout are in the other mode."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    network.train(training)
    network[1].train(not training)
    network[5].train(not training)
    return network


def modes(network):
    return {name: module.training for name, module in network.named_modules()}


def test_modes_are_restored_after_an_error():
    network = mixed(True)
    before = modes(network)
    with pytest.raises(RuntimeError), evaluation_mode(network):
        assert not any(modes(network).values())
        raise RuntimeError
    assert modes(network) == before


@pytest.mark.parametrize("training", [True, False])
def test_conversion_leaves_modes_alone_and_takes_them_along(training):
    network = mixed(training)
    before = modes(network)
    converted = rsquant.convert(network, 2, 2, (16, 12))
    assert modes(network) == before
    after = modes(converted.body)
    assert {name: after[name] for name in before} == before
    assert converted.training == training


def test_calibration_leaves_modes_alone():
    converted = rsquant.convert(mixed(True), 2, 2, (16, 12))
    before = modes(converted)
    rsquant.calibrate(converted, torch.randn(4, 3, 16, 16))
    assert modes(converted) == before


def test_export_leaves_modes_alone(tmp_path):
    converted = rsquant.convert(mixed(True), 2, 2, (16, 12))
    before = modes(converted)
    rsquant.export_onnx(converted, tmp_path / "a.onnx", resolution=16)
    assert modes(converted) == before
