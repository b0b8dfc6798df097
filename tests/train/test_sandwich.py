"""Which settings a step trains, and runs that train them."""

import dataclasses

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

from rsquant.errors import ConfigError
from rsquant.evaluate.report import evaluate_checkpoint
from rsquant.runs import resolve
from rsquant.train import training
from rsquant.train.figures import add_step, mean
from rsquant.train.metrics import read_metrics
from rsquant.train.sandwich import rows_of_step

BITS = dataclasses.replace(
    CONFIG,
    model=dataclasses.replace(CONFIG.model, bits=("4/4", "2/2", "1/2")),
    train=dataclasses.replace(CONFIG.train, epochs=2),
)


def test_a_step_trains_the_ends_and_two_others():
    seen = set()
    for step in range(60):
        rows = rows_of_step(15, 0, 1, step)
        assert rows == sorted(set(rows)) and len(rows) == 4
        assert (rows[0], rows[-1]) == (0, 14)
        seen.update(rows)
    assert seen == set(range(15))


def test_what_is_drawn_follows_from_seed_epoch_and_step():
    drawn = [rows_of_step(15, seed, epoch, 7) for seed in (0, 1) for epoch in range(5)]
    assert drawn == [rows_of_step(15, seed, epoch, 7) for seed in (0, 1) for epoch in range(5)]
    assert len({tuple(rows) for rows in drawn}) > 5


@pytest.mark.parametrize("settings", [1, 2, 3, 4])
def test_few_settings_are_all_trained(settings):
    assert rows_of_step(settings, 0, 0, 0) is None


def test_figures_of_a_setting_are_means_over_its_own_images():
    sums = {"images": 0, "seconds": 0.0}
    add_step(sums, {"loss": 2.0, "share_96_w2a2": 1.0, "top1_96_w2a2": 50.0}, 10)
    add_step(sums, {"loss": 4.0}, 30)
    assert mean(sums, "loss") == 3.5
    assert mean(sums, "top1_96_w2a2") == 50.0
    assert mean(sums, "share_96_w2a2") == 0.25
    assert mean(sums, "top1_96_w4a4") == 0.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(root, "whole", config=BITS)
    return root / "whole"


def test_a_run_continues_bit_for_bit(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 7, BITS)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(whole), state(tmp_path / "cut")
    assert expected[0].keys() == got[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(tensor, got[0][name]), name


def test_a_run_has_a_column_for_every_setting(whole):
    row = read_metrics(whole)[-1]
    for name in ("48_w4a4", "32_w4a4", "48_w2a2", "48_w1a2", "32_w2a2", "32_w1a2"):
        assert row[f"val_top1_{name}"] and row[f"alpha_{name}"]


class Progress(Silent):
    def advance(self, images, note=""):
        pass

    def echo(self, line):
        pass


def measured(run, **which):
    """Rows of an evaluation of some of a run's settings."""
    return evaluate_checkpoint(
        resolve(str(run), "last"),
        None,
        data=None,
        val_images=None,
        batch=16,
        workers=0,
        device="cpu",
        progress=Progress(),
        **which,
    ).rows


def test_every_setting_is_evaluated(whole):
    rows = measured(whole)
    assert [(row["resolution"], row["bits"]) for row in rows] == [
        (size, bits) for bits in ("4/4", "2/2", "1/2") for size in (48, 32)
    ]
    last = read_metrics(whole)[-1]
    assert rows[2]["top1"] == pytest.approx(float(last["val_top1_48_w2a2"]), abs=1e-3)
    assert measured(whole, bits=["2/2"]) == rows[2:4]
    with pytest.raises(ConfigError, match="has no setting 3/3; it has 4/4, 2/2, 1/2"):
        measured(whole, bits=["3/3"])


def test_widths_are_trained_and_evaluated(tmp_path):
    model = dataclasses.replace(CONFIG.model, widths=(1.0, 0.75, 0.5))
    config = dataclasses.replace(
        CONFIG, model=model, train=dataclasses.replace(CONFIG.train, epochs=1)
    )
    lines = train(tmp_path, "wide", config=config)
    assert any("(widths 1, 0.75, 0.5)" in line for line in lines)
    row = read_metrics(tmp_path / "wide")[-1]
    for name in ("48_x1", "32_x1", "48_x0_75", "32_x0_5"):
        assert row[f"val_top1_{name}"] and row[f"alpha_{name}"]
    rows = measured(tmp_path / "wide", widths=(0.5,))
    assert [(one["width"], one["resolution"]) for one in rows] == [(0.5, 48), (0.5, 32)]
    assert rows[1]["top1"] == pytest.approx(float(row["val_top1_32_x0_5"]), abs=1e-3)
    with pytest.raises(ConfigError, match=r"widths: .* has no width 0.3; it has 1, 0.75, 0.5"):
        measured(tmp_path / "wide", widths=(0.3,))


def test_phases_of_bits_are_refused(tmp_path):
    scheduled = dataclasses.replace(
        BITS, train=dataclasses.replace(BITS.train, bits_schedule="4,2")
    )
    with pytest.raises(ConfigError, match=r"bits_schedule: .* several settings of `bits`"):
        train(tmp_path, "run", config=scheduled)
