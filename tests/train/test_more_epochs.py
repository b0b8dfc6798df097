"""A run goes on for more epochs than it was configured for."""

import dataclasses

import pytest
from small_runs import CONFIG, Silent, train

from rsquant import config as configs
from rsquant import runs
from rsquant.errors import ConfigError
from rsquant.train import training
from rsquant.train.metrics import as_numbers, read_metrics
from rsquant.train.schedule import learning_rate

ONE = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))
STEPS = ONE.data.train_images // ONE.train.batch


def resume(run, **settings):
    lines = []
    return training.resume(run, Silent(), lines.append, **settings)[1], lines


def test_a_finished_run_takes_more_epochs_by_their_schedule(tmp_path):
    run = tmp_path / "run"
    train(tmp_path, "run", config=ONE)
    result, lines = resume(run, epochs=2, workers=0)
    assert result is not None
    assert "2 epochs instead of 1" in lines[0]
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    train_ = ONE.train
    for row, epochs in zip(rows, (1, 2), strict=True):
        last = int(row["epoch"]) - 1 / STEPS  # the rate of an epoch's last step
        expected = learning_rate(train_.schedule, train_.lr, last, epochs, train_.warmup)
        assert float(row["lr"]) == pytest.approx(expected, rel=1e-4)
    stored = configs.load_run(run / runs.CONFIG)
    assert stored.train.epochs == 2
    # Settings of this machine are not kept.
    assert stored.data.workers == ONE.data.workers
    assert resume(run)[1] == [f"{run}: all 2 epochs are done already"]
    assert resume(run, epochs=2)[0] is None


def test_a_run_cannot_end_before_where_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "run", stop_after=STEPS + 6)  # its second epoch has begun
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    for epochs, message in (
        (1, "in epoch 2 .*; give 2 or more"),
        (0, "must be 1 to 100000, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            resume(tmp_path / "run", epochs=epochs)
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert {n: b for n, b in after.items() if n in before} == before
    resume(tmp_path / "run", epochs=2)  # fewer than the three of before
    assert len(read_metrics(tmp_path / "run")) == 2


def test_a_row_as_numbers():
    row = {"epoch": "3", "lr": "0.05", "val_top1_32": ""}
    assert as_numbers(row) == {"epoch": 3, "lr": 0.05, "val_top1_32": None}
