"""A damaged metrics.csv costs its damaged rows and nothing else."""

import os

import pytest

from rsquant.report.plots import training_curves
from rsquant.runs import LOG, METRICS
from rsquant.train.metrics import metrics_of
from rsquant.train.recorder import Recorder

ROW = {
    "epoch": 1,
    "lr": 0.1,
    "train_classification": 1.0,
    "train_distillation": 1.0,
    "train_ensemble": 1.0,
    "val_top1_48": 50.0,
    "alpha_48": 1.0,
    "val_top1_ensemble": 51.0,
}
HEADER = ",".join(ROW)
WHOLE = [HEADER, *(",".join([str(n), "0.1", *["1"] * 6]) for n in (1, 2, 3))]


@pytest.mark.parametrize(
    "content,epochs,damage",
    [
        ("\n".join(WHOLE), [1, 2, 3], None),
        ("\n".join([*WHOLE[:2], "2,0.", WHOLE[3]]), [1, 3], "line 3"),
        ("\n".join([*WHOLE[:2], WHOLE[2].replace("0.1", "x"), WHOLE[3]]), [1, 3], "line 3"),
        ("\n".join([*WHOLE[:2], WHOLE[2].replace("0.1", "nan")]), [1], "line 3"),
        ("\n".join([WHOLE[0], WHOLE[2], WHOLE[1], WHOLE[3]]), [2, 3], "line 3"),
        ("\n".join([WHOLE[0], "-" + WHOLE[1]]), [], "line 2"),
        ("\n".join([WHOLE[0], '"' + WHOLE[1]]), [], "line 2"),
        ("\n".join(WHOLE[1:]), [], "first line"),
        ("epoch,epoch\n1,1", [], "first line"),
        ("epoch,$\\frac$\n1,1", [], "first line"),
        ("\x1b[31m", [], "first line"),
        ("", [], "empty"),
        (b"\xff\0\x00" * 9, [], "first line"),
        (None, [], None),
    ],
)
def test_rows_that_are_whole_stay_and_a_run_goes_on(tmp_path, content, epochs, damage):
    path = tmp_path / METRICS
    data = content.encode() if isinstance(content, str) else content
    if data is not None:
        path.write_bytes(data)
    found = metrics_of(tmp_path)
    assert [int(row["epoch"]) for row in found.rows] == epochs
    assert (damage or "None") in str(found.damage)
    recorder = Recorder(tmp_path, epochs_kept=3)
    recorder.epoch({**ROW, "epoch": 4})
    recorder.close()
    assert [int(row["epoch"]) for row in metrics_of(tmp_path).rows] == [*epochs, 4]
    assert metrics_of(tmp_path).damage is None
    lost = f"the rows of {3 - len(epochs)} of 3 epochs are lost"
    log = (tmp_path / LOG).read_text() if (tmp_path / LOG).exists() else ""
    assert (lost in log) == (len(epochs) < 3)
    kept = tmp_path / "metrics.damaged1.csv"
    assert kept.exists() == (damage is not None)
    assert damage is None or kept.read_bytes() == data


def test_no_damaged_file_is_overwritten_and_columns_may_come_and_go(tmp_path):
    for content in ("first", "second"):
        (tmp_path / METRICS).write_text(content)
        Recorder(tmp_path, epochs_kept=1).close()
    kept = sorted(name for name in os.listdir(tmp_path) if "damaged" in name)
    assert [(tmp_path / name).read_text() for name in kept] == ["first", "second"]
    (tmp_path / METRICS).write_text("epoch,older\n1,5\n")
    recorder = Recorder(tmp_path, epochs_kept=1)
    recorder.epoch({**ROW, "epoch": 2})
    recorder.close()
    rows = metrics_of(tmp_path).rows
    assert [row["older"] for row in rows] == ["5", ""]
    assert training_curves(tmp_path).is_file()
