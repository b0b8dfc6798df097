"""Averages, early ends and statistics at the end, all together: what is saved, and resuming."""

import dataclasses

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

import rsquant
from rsquant import runs
from rsquant.evaluate.accuracy import Accuracy
from rsquant.tasks.classification import Classification
from rsquant.train import training
from rsquant.train.metrics import read_metrics


def configured(**changes):
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


EVERYTHING = configured(
    optimizer="adamw",
    lr=0.005,
    ema=0.5,
    label_smoothing=0.1,
    clip_norm=1.0,
    patience=1,
    bn_reestimate=2,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("everything")
    return root / "whole", train(root, "whole", config=EVERYTHING)


# In the middle of the second epoch; while the statistics at the end are measured.
@pytest.mark.parametrize("stop_after", [7, 14])
def test_a_run_with_all_of_them_resumes_to_the_same_bits(whole, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after, config=EVERYTHING)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(whole[0]), state(tmp_path / "cut")
    assert expected[0].keys() == got[0].keys()
    assert [n for n, t in expected[0].items() if not torch.equal(t, got[0][n])] == []
    assert expected[1]["progress"] == got[1]["progress"]
    for name in (runs.BEST, runs.LAST):
        assert (whole[0] / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_averages_are_saved_with_new_statistics_and_the_state_has_both(whole):
    run, lines = whole
    tensors, metadata = state(run)
    saved = rsquant.load(run / runs.LAST).state_dict()
    assert int(tensors["part.average.updates"]) == 9
    assert metadata["progress"]["reestimated"] == 3
    for name, value in saved.items():
        average = tensors[f"part.average.{name}"]
        assert torch.equal(value, average) == ("running" not in name), name
    weight = "body.layer1.0.conv1.weight"
    assert not torch.equal(saved[weight], tensors[f"model.{weight}"])
    assert any("averages of the weights (EMA, 0.5)" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("BatchNorm statistics of 32 images")]
    assert line.count("->") == 2


class Worse(Accuracy):
    """Epochs that are worse, one after the other."""

    epochs = 0

    def figures(self):
        return {**super().figures(), "top1": 50.0 - Worse.epochs}


@pytest.fixture
def worse_and_worse(monkeypatch):
    monkeypatch.setattr(Worse, "epochs", 0)
    monkeypatch.setattr(Classification, "metric", lambda self: Worse())
    original = training.Trainer._validate

    def validate(self, *args):
        Worse.epochs = self.state.epoch
        return original(self, *args)

    monkeypatch.setattr(training.Trainer, "_validate", validate)


@pytest.mark.usefixtures("worse_and_worse")
def test_a_run_without_a_better_epoch_ends_and_goes_on_when_told(tmp_path):
    lines = train(tmp_path, "run", config=configured(patience=1))
    told = "stopped after epoch 2: 1 epochs without a better mean of top-1"
    assert any(line.startswith(told) for line in lines)
    assert len(read_metrics(tmp_path / "run")) == 2
    lines = []
    assert training.resume(tmp_path / "run", Silent(), lines.append)[1] is None
    assert told in lines[-1]
    training.resume(tmp_path / "run", Silent(), lines.append, patience=9)
    assert len(read_metrics(tmp_path / "run")) == 3
