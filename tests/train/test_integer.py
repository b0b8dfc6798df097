"""Training an integer network: it learns, stops and goes on like any other."""

import dataclasses

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

from rsquant import runs
from rsquant.config import load_run
from rsquant.errors import ConfigError
from rsquant.models.checkpoint import load
from rsquant.train import training

INTEGER = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, integer=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("integer")
    lines = train(root, "whole", config=INTEGER)
    return root / "whole", lines


def test_a_run_is_named_and_its_checkpoint_is_an_integer_network(whole):
    run, lines = whole
    assert any("W2A2 integer, grid coarse" in line for line in lines)
    assert any("bases and scales fitted" in line for line in lines)
    assert load_run(run / runs.CONFIG).model.integer
    assert load(run / runs.LAST).spec.integer


def test_an_interrupted_run_continues_bit_for_bit(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "parts", stop_after=7, config=INTEGER)
    training.resume(tmp_path / "parts", Silent(), lambda line: None)
    expected, found = state(whole[0]), state(tmp_path / "parts")
    tensors, others = expected[0], found[0]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_what_cannot_be_integers_is_refused_before_anything_is_written(tmp_path):
    model = dataclasses.replace(INTEGER.model, abits=32)
    options = dataclasses.replace(INTEGER.train, calibration=0)
    with pytest.raises(ConfigError, match="integer: needs weights and activations of 1 to 4 bits"):
        train(tmp_path, "floats", config=dataclasses.replace(INTEGER, model=model, train=options))
    assert not (tmp_path / "floats").exists()
