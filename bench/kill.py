"""kill -9 at random moments: a run that goes on after each ends in an undisturbed one's bits.

    python bench/kill.py [--kills 100] [--processes 2] [--seed 0] [--folder DIR] [OPTIONS OF TRAIN]

Trains a tiny network on the built-in set, once undisturbed; then again, each time killed at a
random moment and continued, until the kills are done; the last training ends by itself. Of several
processes torchrun's agent starts and restarts them: a random one is killed, or the agent and all.
Compares weights, bases, statistics and momentum, and metrics.csv, bit by bit. Exit status 1 where
they differ, or a training ends with an error of its own.

Trainings are forked from this process, which has imported torch: 100 starts cost seconds of
processor time, not minutes. DIR keeps what was done: the same line goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (here, so that trainings have it)
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils import tensorboard  # noqa: F401

import rsquant.cli.train
import rsquant.train.training  # noqa: F401
from rsquant import cli, runs
from rsquant.models import checkpoint
from rsquant.models.tensor_file import read_tensors
from rsquant.train.metrics import read_metrics
from rsquant.train.state import TrainingState

SETTINGS = (
    "--arch resnet18 --wbits 2 --abits 2 --resolutions 32,24 --width 4 --data shapes "
    "--train-images 32 --val-images 20 --batch 8 --lr 0.02 --calibration 8 --workers 1 "
    "--device cpu --threads 1 --save-minutes 0.0005"
)


def train(arguments: list[str]) -> None:
    """What `rsquant train` does in a process of its own, and its exit status."""
    cli.main(["train", *arguments])


def train_in_processes(arguments: list[str], processes: int, restarts: int) -> None:
    """What torchrun does, except that workers are forked."""
    with tempfile.TemporaryDirectory() as logs:
        agent = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"kill-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=restarts,
            monitor_interval=0.05,
            start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.NONE),
        )
        elastic_launch(agent, _one_of_several)(arguments)


def _one_of_several(arguments: list[str]) -> None:
    try:
        train(arguments)
    except SystemExit as end:
        if end.code not in (0, None):  # the agent takes an exit for a return
            raise RuntimeError(f"exit status {end.code}") from end


def started(arguments: list[str], processes: int, restarts: int = 0) -> int:
    """The id of a training, or of the agent of several processes; it writes to output.txt."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        log = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if processes == 1:
            train(arguments)
        else:
            train_in_processes(arguments, processes, restarts)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:  # this is a copy of the script: it must not go on here
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Child:
    """A process that this one forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self.status is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.status = os.waitstatus_to_exitcode(found[1])
        return self.status

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(p) for task in tasks for p in (task / "children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    return [p for child in children(pid) for p in (child, *descendants(child))]


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def killed(child: Child, chance: random.Random, processes: int) -> str:
    """Kill what trains; returns what was killed. One of several: the agent restarts them all."""
    workers = children(child.pid)
    if processes > 1 and workers and chance.random() < 0.5:
        victim = chance.choice(workers)
        end(victim)
        return f"process {workers.index(victim)} of {len(workers)}"
    # Those that load images live on for seconds where the training alone is killed.
    everyone = chance.random() < 0.5 or processes > 1
    for pid in [child.pid, *(descendants(child.pid) if everyone else [])]:
        end(pid)
    child.wait()
    return "all" if everyone else "the training, not its loader"


def moment(run: Path, chance: random.Random, child: Child, most: float) -> bool:
    """Wait until a random moment; most of them within a training that goes. False if it ended."""
    if chance.random() < 0.75:
        log = run / runs.LOG
        before = log.stat().st_size if log.exists() else 0
        while child.poll() is None and (not log.exists() or log.stat().st_size == before):
            time.sleep(0.005)
    until = time.monotonic() + chance.uniform(0, most)
    while child.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    return child.poll() is None


def final(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_tensors(run / runs.STATE, TrainingState.FORMAT, TrainingState.VERSION)
    last, _ = read_tensors(run / runs.LAST, checkpoint.FORMAT, checkpoint.VERSION)
    best, _ = read_tensors(run / runs.BEST, checkpoint.FORMAT, checkpoint.VERSION)
    named = {f"last.{name}": tensor for name, tensor in last.items()}
    return tensors | named | {f"best.{name}": tensor for name, tensor in best.items()}


def differences(one: Path, other: Path) -> list[str]:
    a, b = final(one), final(other)
    found = [name for name in a.keys() | b.keys() if name not in a or name not in b]
    found += [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]
    timed = ("seconds", "per_s")
    rows = [
        [{k: v for k, v in row.items() if not k.endswith(timed)} for row in read_metrics(run)]
        for run in (one, other)
    ]
    return sorted(found) + ([] if rows[0] == rows[1] else [runs.METRICS])


def check(run: Path, kills: int) -> None:
    if bad := differences(Path("runs/whole"), run):
        sys.exit(f"after {kills} kills these differ: {', '.join(bad[:5])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--most", type=float, help="seconds into a training, at most")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop killing after so many")
    parser.add_argument("--folder", type=Path, help="where to train and to count")
    given, more = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = given.folder or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        os.chdir(work)
        _kill_until_done(given, [*SETTINGS.split(), *more, "--epochs", str(given.epochs)])


def _kill_until_done(given: argparse.Namespace, settings: list[str]) -> None:
    began, count, counted = time.monotonic(), given.processes, Path("kills.txt")
    run, starts = Path("runs/cut"), 0
    # How many kills, and the most seconds to one: of 100 some then fall into every epoch.
    if counted.exists():
        done, written = counted.read_text().split()
        kills, most = int(done), float(written)
    else:
        shutil.rmtree("runs", ignore_errors=True)
        status = Child(started([*settings, "--name", "whole"], count)).wait()
        if status:
            sys.exit(f"the undisturbed training ended with {status}: see output.txt")
        kills, most = 0, given.most or (time.monotonic() - began) / 25
        counted.write_text(f"{kills} {most:.1f}")
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)

    def is_enough() -> bool:
        return kills >= given.kills or time.monotonic() - began > 60 * given.minutes

    while True:
        starts += 1
        fresh = not (run / runs.CONFIG).is_file()
        arguments = [*settings, "--name", "cut", "--exist-ok"] if fresh else ["--resume", "cut"]
        # What cannot be killed any more must end by itself.
        child = Child(started(arguments, count, restarts=1000))
        try:
            while child.poll() is None:
                chance = random.Random(f"{given.seed} {kills}")
                if is_enough():
                    child.wait()
                elif moment(run, chance, child, most):
                    print(f"{kills + 1}: {killed(child, chance, count)}", flush=True)
                    kills += 1
                    counted.write_text(f"{kills} {most:.1f}")
        finally:  # also where this script is stopped
            if child.poll() is None:
                for pid in (child.pid, *descendants(child.pid)):
                    end(pid)
        if child.status not in (0, -signal.SIGKILL):
            print(Path("output.txt").read_text()[-3000:])
            sys.exit(f"a training ended with {child.status}")
        if child.status == 0:
            check(run, kills)
            if is_enough():
                break
            print(f"the same bits after {kills} kills; once more", flush=True)
            shutil.rmtree(run)
    print(
        f"{kills} kills, {starts} starts, {count} processes, seed {given.seed}: the same bits as "
        f"the undisturbed run ({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
