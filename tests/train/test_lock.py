"""Two trainings never write to one run folder."""

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest
from shallow import RESNET10

from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.errors import ConfigError, RsquantError
from rsquant.train import training
from rsquant.train.lock import LOCK, locked
from rsquant.train.metrics import read_metrics

CONFIG = RunConfig(
    ModelConfig(RESNET10, 2, 2, (32,), width=4),
    DataConfig("shapes", workers=0, train_images=16, val_images=8),
    TrainConfig(epochs=2, batch=8, lr=0.05, schedule="cosine", device="cpu", calibration=0),
)


class Doing:
    """Progress that does something after the first step, in the middle of a run."""

    def __init__(self, what=lambda: None):
        self.what, self.steps = what, 0

    def start(self, *args):
        pass

    def advance(self, images, note):
        self.steps += 1
        if self.steps == 1:
            self.what()


def start(root, name=None, what=lambda: None, **more):
    return training.start(CONFIG, Doing(what), lambda line: None, name, root=root, **more)[0]


def test_a_held_folder_is_refused_and_its_holder_named(tmp_path):
    with locked(tmp_path):
        with (
            pytest.raises(
                ConfigError, match=f"process {os.getpid()} on .* is training in"
            ) as error,
            locked(tmp_path),
        ):
            pytest.fail("the block must not run")
        assert "\n" not in str(error.value)
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == ""


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_killed_process_frees_the_folder_though_its_workers_live_on(tmp_path):
    code = """
import multiprocessing, os, signal, sys
from pathlib import Path
from rsquant.train.lock import locked
ready = multiprocessing.get_context("fork").Event()
def work():
    ready.set()
    sys.stdin.buffer.read()  # as long as the test wants
with locked(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    ready.wait()
    print(worker.pid, flush=True)
    signal.pause()
"""
    code = code.replace("sys.stdin.buffer.read()", "os.read(int(sys.argv[2]), 1)")
    hold, release = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(hold)],
        stdout=subprocess.PIPE,
        pass_fds=[hold],
    )
    try:
        worker = int(process.stdout.readline())
        with (
            pytest.raises(ConfigError, match=f"process {process.pid} on"),
            locked(tmp_path),
        ):
            pytest.fail("the block must not run")
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(worker, 0)  # lives
        with locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    finally:
        os.close(release)
        os.close(hold)
        process.kill()
        process.wait()
        process.stdout.close()


def test_workers_of_a_run_that_has_ended_close_nothing_of_the_next(tmp_path):
    with locked(tmp_path):
        pass
    with locked(tmp_path), open(tmp_path / "file", "w") as file:
        process = os.fork()
        if process == 0:
            from multiprocessing import util

            util._run_after_forkers()
            try:
                os.fstat(file.fileno())
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
        with pytest.raises(ConfigError), locked(tmp_path):
            pytest.fail("the child must not have freed it")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, code):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass


def test_a_folder_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RsquantError, match="cannot be written"), locked(tmp_path / "file"):
        pytest.fail("the block must not run")


def test_no_second_training_enters_a_run_and_the_first_is_not_disturbed(tmp_path):
    """Neither one that continues it, nor one that replaces it; one without a name makes another."""
    refused = []

    def others():
        before = {p.name: p.read_bytes() for p in (tmp_path / "resnet10_w2a2").iterdir()}
        run = tmp_path / "resnet10_w2a2"
        for attempt in (
            lambda: training.resume(run, Doing(), lambda line: None),
            lambda: start(tmp_path, "resnet10_w2a2", exist_ok=True),
            lambda: start(tmp_path, "resnet10_w2a2"),
        ):
            with pytest.raises(ConfigError) as error:
                attempt()
            refused.append(str(error.value))
        assert {p.name: p.read_bytes() for p in run.iterdir()} == before
        refused.append(start(tmp_path).name)

    run = start(tmp_path, what=others)
    assert [f"process {os.getpid()}" in line for line in refused[:2]] == [True, True]
    assert "exists already" in refused[2]
    assert refused[3] == "resnet10_w2a2-2"
    assert [row["epoch"] for row in read_metrics(run)] == ["1", "2"]
    assert training.resume(run, Doing(), lambda line: None)[1] is None


def test_temporary_files_of_a_killed_training_go_when_it_continues_or_is_replaced(tmp_path):
    one = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))
    run, _ = training.start(one, Doing(), lambda line: None, "a", root=tmp_path)
    for again in (
        lambda: training.resume(run, Doing(), lambda line: None),
        lambda: training.start(one, Doing(), lambda line: None, "a", True, root=tmp_path),
    ):
        # Of this very process's number: as in a container, where all have the same.
        for name in (runs.STATE, runs.LAST, runs.METRICS, runs.CONFIG):
            (run / f".{name}.{os.getpid()}.tmp").write_text("half")
        (run / ".tmpAb3xYz").write_text("of rsquant 0.1")
        packing = run / f".a.rsq.{os.getppid()}.tmp"
        packing.write_text("being written")
        again()
        assert [p.name for p in run.iterdir() if ".tmp" in p.name] == [packing.name]


def test_a_file_of_the_runs_name_is_said_to_be_one(tmp_path):
    (tmp_path / "a").write_text("mine")
    for exist_ok in (False, True):
        with pytest.raises(ConfigError, match="a: is a file; choose another `name`"):
            start(tmp_path, "a", exist_ok=exist_ok)
