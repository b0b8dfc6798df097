"""Which run and which checkpoint are meant."""

import os
from pathlib import Path

import pytest

from rsquant import runs
from rsquant.errors import ConfigError


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(name, time, *files): a run whose files were written then."""
    monkeypatch.chdir(tmp_path)

    def make(name, time, *files, root="runs"):
        run = tmp_path / root / name
        run.mkdir(parents=True, exist_ok=True)
        for file in ("config.yaml", *files):
            (run / file).write_text("")
            os.utime(run / file, (time, time))
        return run

    return make


def names():
    return [run.name for run in runs.all_runs()]


def test_the_newest_run_is_the_one_last_trained(made):
    made("old", 100, "log.txt", "best.safetensors")
    made("new", 200, "log.txt", "best.safetensors")
    assert names() == ["new", "old"]
    for file in ("old.rsq", "events.out.tfevents.1", "curves.png", "p.json", "notes.txt"):
        made("old", 100, "log.txt", "best.safetensors")
        (runs.RUNS / "old" / file).write_text("written now")
    (runs.RUNS / "old" / "export").mkdir()
    assert names() == ["new", "old"]
    assert runs.resolve().path == runs.RUNS / "new" / "best.safetensors"


@pytest.mark.parametrize(
    "file", ["log.txt", "state.safetensors", "metrics.csv", "last.safetensors"]
)
def test_what_training_writes_makes_a_run_the_newest(made, file):
    made("a", 100, "log.txt")
    made("b", 200, "log.txt")
    made("a", 100, "log.txt", file)
    os.utime(runs.RUNS / "a" / file, (300, 300))
    assert names() == ["a", "b"]


def test_a_run_that_has_not_begun_counts_from_its_configuration(made):
    made("a", 100, "log.txt")
    made("b", 200)
    assert names() == ["b", "a"]
    os.utime(runs.RUNS / "a" / "config.yaml", (300, 300))  # edited, not trained
    assert names() == ["b", "a"]


def test_a_run_s_name_wins_over_a_folder_of_that_name(made, tmp_path):
    run = made("demo", 100, "best.safetensors")
    assert str(runs.resolve("demo")) == "runs/demo/best.safetensors"
    (tmp_path / "demo").mkdir()
    found = runs.resolve("demo")
    assert found.path.resolve() == run / "best.safetensors"
    assert str(found) == "runs/demo/best.safetensors (the run of that name; ./demo is a folder too)"
    made("demo", 100, "best.safetensors", root=".")
    assert str(runs.resolve("./demo")) == "demo/best.safetensors"
    assert str(runs.resolve("runs/demo")) == "runs/demo/best.safetensors"
    assert str(runs.resolve(tmp_path / "demo")) == str(tmp_path / "demo/best.safetensors")


def test_a_file_belongs_to_the_run_in_whose_folder_it_is_not_to_one_of_that_name(made, tmp_path):
    made("demo", 100, "best.safetensors")
    (tmp_path / "demo").mkdir()
    assert runs.around(Path("demo/net.rsq")) is None
    inside = runs.around(Path("runs/demo/net.rsq"))
    assert inside is not None and inside.run == tmp_path / "runs" / "demo"


def test_a_folder_that_is_the_run_itself_needs_no_line(made, tmp_path, monkeypatch):
    made("demo", 100, "best.safetensors")
    (tmp_path / "demo").symlink_to(tmp_path / "runs" / "demo")
    assert runs.resolve("demo").note == ""
    monkeypatch.chdir(tmp_path / "runs" / "demo")
    assert str(runs.resolve(".")) == "best.safetensors"


def test_last_of_another_file_is_refused(tmp_path):
    for name in (runs.LAST, "net.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert runs.resolve(tmp_path / runs.LAST, "last").path.name == runs.LAST
    with pytest.raises(ConfigError, match=r"chooses one of a run folder, and .* is a file"):
        runs.resolve(tmp_path / "net.safetensors", "last")
