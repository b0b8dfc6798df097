"""Runs that start from weights: what the log says, what the folder records, and continuing."""

import dataclasses

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

import rsquant
from rsquant import config as configs
from rsquant import runs
from rsquant.errors import CheckpointError, ConfigError
from rsquant.train import training


def variant(model=None, **train_changes):
    return dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, **(model or {})),
        train=dataclasses.replace(CONFIG.train, epochs=1, **train_changes),
    )


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("float")
    changes = {"wbits": 32, "abits": 32, "block": "preact"}
    train(root, "float", config=variant(changes, calibration=0))
    return root / "float"


@pytest.fixture(scope="module")
def low_run(float_run, tmp_path_factory):
    """A run, and its log."""
    root = tmp_path_factory.mktemp("low")
    return root / "low", train(root, "low", config=variant(init=str(float_run)))


def test_a_low_bit_run_starts_from_a_float_one(float_run, low_run):
    run, lines = low_run
    text = "\n".join(lines)
    assert f"layers from {float_run / runs.BEST}" in text
    assert "activation bases fitted" in text and "statistics of 48 images" in text
    stored = configs.load_run(run / runs.CONFIG)
    assert stored.train.init == str(float_run)
    assert stored.model.mean == rsquant.load(float_run / runs.BEST).spec.mean


def test_statistics_of_a_source_that_computes_the_same_stay(float_run, tmp_path, monkeypatch):
    monkeypatch.setattr("rsquant.train.begin.estimate_statistics", None)  # not called
    config = variant({"wbits": 32, "abits": 32, "block": "preact"}, init=str(float_run))
    lines = train(tmp_path, "again", config=config)
    assert "calibration BatchNorm statistics stay those of the source" in lines


def test_a_low_bit_run_goes_on_at_more_widths(low_run, tmp_path):
    source = str(low_run[0])
    again = train(tmp_path, "again", config=variant(init=source))
    assert any("nothing to fit: the bases are those of the source" in line for line in again)
    wider = train(tmp_path, "wider", config=variant({"widths": (1.0, 0.5)}, init=source))
    # Sums over half of the channels have statistics of their own.
    assert any("statistics of 48 images" in line for line in wider)


def test_a_stopped_run_continues_without_its_source(float_run, tmp_path):
    source = tmp_path / "source.safetensors"
    source.write_bytes((float_run / runs.BEST).read_bytes())
    config = variant(init=str(source))
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 2, config)  # calibration, then a step
    source.unlink()
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(tmp_path / "whole")[0], state(tmp_path / "cut")[0]
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())


def test_a_source_that_is_not_there_leaves_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing.*no such run or file; name a run, a"):
        train(tmp_path, "x", config=variant(init=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="nobody publishes weights of 'resnet10'"):
        train(tmp_path, "x", config=variant(init="pretrained"))
    assert not (tmp_path / "x").exists()
