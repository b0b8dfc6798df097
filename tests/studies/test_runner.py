"""Runs of a study: real ones in this process, and processes that only pretend."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import rsquant
import rsquant.cli
from rsquant.cli.study import Commands
from rsquant.errors import ConfigError, DataError, RsquantError
from rsquant.studies import cells
from rsquant.studies import runner as runners
from rsquant.studies.command import list_runs, run_study
from rsquant.studies.outcome import EVALUATION
from rsquant.studies.planned import existing, planned_runs
from rsquant.studies.runner import Runner, StudyRunError
from rsquant.studies.study import read_study
from rsquant.train.lock import locked

pytestmark = pytest.mark.usefixtures("one_start")

RAW = {
    "seeds": [0],
    "config": {
        "model": {"arch": "resnet18", "wbits": 32, "abits": 32, "width": 2, "stem": "tiny"},
        "data": {"source": "shapes", "workers": 0, "train_images": 8, "val_images": 6},
        "train": {"epochs": 1, "batch": 4, "threads": 1},
    },
    "experiments": {
        "individual": {"each": "sizes", "model": {"individual": "EACH"}},
        "shared": {"train": {"distillation": "none", "norms": "shared"}},
    },
    "tables": [
        {
            "baseline": "I-Nets",
            "columns": [
                {"title": "I-Nets", "of": "individual"},
                {"title": "shared", "of": "shared", "untrained": True},
            ],
        }
    ],
}
RAW["config"]["model"]["resolutions"] = [24, 16]
# A command that keeps what it was called with, and makes the files that rsquant would.
PRETEND = """
import json, os, pathlib, signal, sys, time
# As `rsquant train`: SIGINT stays ignored where it is.
signal.signal(signal.SIGTERM, signal.default_int_handler)
kind, name = sys.argv[1], [a for a in sys.argv if "seed" in a][-1].split("/")[-1].split(".yaml")[0]
if kind == "eval":
    name = sys.argv[2].split("/")[1]
folder = pathlib.Path("runs") / name
folder.mkdir(parents=True, exist_ok=True)
with open("calls.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "shared" in name and os.environ.get("FAILS"):
    sys.exit("error: the disk is full")
if kind == "train":
    (folder / "config.yaml").write_text("model: {}")
    try:
        time.sleep(float(os.environ.get("SLEEPS", 0)))
    except KeyboardInterrupt:
        (folder / "saved").touch()
        sys.exit(130)
    print("epoch 1  loss 1.0")
else:
    sizes = sys.argv[sys.argv.index("--resolutions") + 1].split(",")
    rows = [{"resolution": int(size), "top1": 50.0, "madds": 1} for size in sizes]
    (folder / "study.json").write_text(json.dumps({"rows": rows}))
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(RAW))
    return read_study(path)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    script = tmp_path / "pretend.py"
    script.write_text(PRETEND)
    monkeypatch.setattr(runners, "_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(cells, "parameters", lambda folder: 1)


def calls(root):
    return (root / "calls.txt").read_text().splitlines()


def test_a_study_trains_measures_and_continues(study, tmp_path, monkeypatch):
    """The whole of it, with every command run in this process."""
    root = tmp_path / "studies"
    commands = []

    def here(self, run, arguments):
        commands.append(arguments)
        monkeypatch.chdir(self.root)
        with pytest.raises(SystemExit) as ended:
            rsquant.cli.main(list(arguments))
        assert ended.value.code == 0

    monkeypatch.setattr(Runner, "_command", here)
    lines = []
    run_study(study, Commands(), root, None, (), ("shared",), 1, lines.append)
    assert [c[0] for c in commands] == ["train", "eval"]
    missing = ["missing: individual 24, seed 0", "missing: individual 16, seed 0"]
    assert [line for line in lines if line.startswith("missing")] == missing
    table = json.loads((root / "tiny/tiny.json").read_text())["rows"]
    # What stands there is what `rsquant eval` measured.
    shared = next(run for run in planned_runs(study) if run.experiment == "shared")
    measured = json.loads((existing(shared, root / "runs") / EVALUATION).read_text())["rows"]
    cell = next(r for r in table if r["column"] == "shared" and r["row"] == "16")
    assert cell["mean"] == pytest.approx(measured[1]["top1"], abs=1e-4)

    # Shared BatchNorms: every row is the same, and was trained.
    network = rsquant.load(existing(shared, root / "runs") / "last.safetensors")
    norm = network.body.bn1
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert (values[0] == values[1]).all()
    assert (norm.running_var[0] != 1).all()

    # Again: nothing is left. Without a measurement the finished run is measured again.
    commands.clear()
    run_study(study, Commands(), root, None, (), ("shared",), 1, lines.append)
    assert commands == []
    (existing(shared, root / "runs") / EVALUATION).unlink()
    run_study(study, Commands(), root, None, (), ("shared",), 1, lines.append)
    assert [c[:2] for c in commands] == [["train", "--resume"], ["eval", commands[1][1]]]
    again = json.loads((existing(shared, root / "runs") / EVALUATION).read_text())["rows"]
    assert [r["top1"] for r in again] == [r["top1"] for r in measured]
    listed = []
    rows = list_runs(study, root, None, (), (), 1, listed.append)
    assert [row["state"] for row in rows] == ["to do", "to do", "finished"]
    assert rows[2]["seconds"] == 0 < rows[0]["seconds"] and rows[2]["sizes"] == [24, 16]
    assert [" finished " in line for line in listed[1:-1]] == [False, False, True]
    assert listed[-1].endswith("in all, 1 at once (judged by the epochs that are done)")

    # Other images are not these runs.
    with pytest.raises(DataError, match="is not a folder"):
        run_study(study, Commands(), root, str(tmp_path / "none"), (), (), 1, lines.append)


def test_a_begun_run_continues_and_a_new_one_begins(study, tmp_path, pretend):
    planned = planned_runs(study)
    begun = tmp_path / "runs" / planned[0].name
    begun.mkdir(parents=True)
    (begun / "config.yaml").write_text("model: {}")
    lines = []
    failed = Runner(tmp_path, Commands(), 1, lines.append, "/photographs").run(planned)
    assert failed == {}
    first, measured, second, *_ = calls(tmp_path)
    assert first == f"train --resume runs/{planned[0].name} --data /photographs"
    assert measured.startswith(f"eval runs/{planned[0].name} --checkpoint last --device auto ")
    assert "--resolutions 24 " in measured and measured.endswith("--data /photographs")
    assert second.startswith(f"train --config configs/{planned[1].name}.yaml --name ")
    assert (tmp_path / f"configs/{planned[1].name}.yaml").is_file()
    assert any("epoch 1  loss 1.0" in line for line in lines)


def test_one_failure_does_not_end_the_others(study, tmp_path, pretend, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    lines = []
    with pytest.raises(
        StudyRunError, match=r"1 of 3 runs failed; shared, seed 0: the disk is full"
    ):
        run_study(study, Commands(), tmp_path, None, (), (), 2, lines.append, tmp_path / "all.json")
    assert "missing: shared, seed 0" in lines
    (table,) = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert table["rows"]
    assert (tmp_path / "tiny/tiny.md").is_file()


def test_a_run_of_another_process_is_waited_for(study, tmp_path, pretend, monkeypatch):
    monkeypatch.setattr(runners, "_AGAIN", 0.05)
    planned = planned_runs(study)
    lock = tmp_path / "locks" / planned[0].name.rpartition("-")[2]
    lock.mkdir(parents=True)
    lines = []
    with locked(lock):
        thread = threading.Thread(
            target=Runner(tmp_path, Commands(), 1, lines.append).run, args=(planned,)
        )
        thread.start()
        while len(lines) < 7:
            time.sleep(0.01)
    thread.join(30)
    assert not thread.is_alive()
    assert sum("another process is at it" in line for line in lines) == 1
    assert "individual 24" in [line for line in lines if "done in" in line][-1]


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("number", "background"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)],
)
def test_interrupted_runs_save_their_states(
    study, tmp_path, pretend, monkeypatch, number, background
):
    monkeypatch.setenv("SLEEPS", "60")
    if background:  # a shell script starts what it puts there with SIGINT ignored
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    planned = planned_runs(study)
    started = [tmp_path / "runs" / run.name / "config.yaml" for run in planned[:2]]

    def stop():
        while not all(path.is_file() and path.stat().st_size for path in started):
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        Runner(tmp_path, Commands(), 2, lambda line: None).run(planned)
    assert all((path.parent / "saved").is_file() for path in started)
    assert len(calls(tmp_path)) == 2


def test_jobs_share_the_processors(study, tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environments = []

    def called(command, env, **others):
        environments.append(env)
        raise StudyRunError("seen")

    monkeypatch.setattr(runners.subprocess, "Popen", called)
    Runner(tmp_path, Commands(), 4, lambda line: None).run(planned_runs(study)[:1])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    Runner(tmp_path, Commands(), 4, lambda line: None).run(planned_runs(study)[:1])
    assert [one["OMP_NUM_THREADS"] for one in environments] == ["2", "3"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--list", "--tables"], "--tables: --list writes no tables; leave it out"),
        (["--tables", "--jobs", "1"], "--jobs: nothing is trained with --tables; leave it out"),
        (["--tables", "--only", "a"], "--only: nothing is trained with --tables; leave it out"),
    ],
)
def test_options_without_effect_are_refused(arguments, line, capsys):
    with pytest.raises(SystemExit):
        rsquant.cli.main(["study", "none.yaml", *arguments])
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_what_would_stop_or_distort_a_study_is_refused_before_the_first_run(
    study, tmp_path, pretend
):
    def run(study, folder, seeds=()):
        run_study(study, Commands(), folder, None, seeds, (), 1, lambda line: None)

    with pytest.raises(ConfigError, match="seed: 5 is given twice"):
        run(study, tmp_path, (5, 5))
    with pytest.raises(ConfigError, match="seed: 5 is given twice"):
        list_runs(study, tmp_path, None, (5, 5), (), 1, lambda line: None)
    (tmp_path / "file").touch()
    with pytest.raises(RsquantError, match="file: is a file, where a folder is needed"):
        run(study, tmp_path / "file")
    synced = {**RAW["config"], "train": {**RAW["config"]["train"], "sync_bn": True}}
    with pytest.raises(ConfigError, match="sync_bn: is of several processes"):
        run(dataclasses.replace(study, config=synced), tmp_path)
    assert not (tmp_path / "calls.txt").exists()


def test_the_list_of_runs_is_written_as_json(tmp_path, monkeypatch, capsys):
    from rsquant.studies import estimate

    monkeypatch.setattr(estimate, "_timed", lambda network, size, count: 1e-9)
    (tmp_path / "tiny.yaml").write_text(json.dumps(RAW))
    with pytest.raises(SystemExit):
        folder = ["--folder", str(tmp_path / "s"), "--json", str(tmp_path / "runs.json")]
        rsquant.cli.main(["study", str(tmp_path / "tiny.yaml"), "--list", *folder])
    rows = json.loads((tmp_path / "runs.json").read_text())["rows"]
    assert len(rows) == 3 and {row["state"] for row in rows} == {"to do"}
    with pytest.raises(SystemExit):
        rsquant.cli.main(["study", str(tmp_path / "tiny.yaml"), "--list", "--data", "none"])
    assert "for 1,281,167 images, as the data set cannot be opened" in capsys.readouterr().out


def test_a_damaged_measurement_is_named(study, tmp_path, pretend):
    planned = planned_runs(study)
    Runner(tmp_path, Commands(), 1, lambda line: None).run(planned)
    damaged = Path(tmp_path / "runs" / planned[0].name / EVALUATION)
    damaged.write_text("{")
    with pytest.raises(ConfigError, match=r"study.json: is damaged; remove it"):
        run_study(study, Commands(), tmp_path, None, (), (), 0, lambda line: None)
