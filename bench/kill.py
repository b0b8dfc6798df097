"""kill -9 at random moments: a run that goes on after each ends in an undisturbed one's bits.

    python bench/kill.py [--kills 100] [--processes 2] [--seed 0]

Trains a tiny network on the built-in set in a folder of its own, once undisturbed; then again, each
time killed at a random moment and continued, until the kills are done; the last training ends by
itself. Of several processes torchrun starts and restarts them: a random one is killed, or the
launcher and all of them. Compares weights, bases, statistics and momentum, and metrics.csv, bit by
bit. Exit status 1 where they differ, or a training ends with an error of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rsquant import runs
from rsquant.models.tensor_file import read_tensors
from rsquant.train.metrics import read_metrics
from rsquant.train.state import TrainingState

SETTINGS = [
    "--arch",
    "resnet18",
    "--wbits",
    "2",
    "--abits",
    "2",
    "--resolutions",
    "48,32",
    "--width",
    "4",
    "--data",
    "shapes",
    "--train-images",
    "48",
    "--val-images",
    "20",
    "--batch",
    "16",
    "--lr",
    "0.02",
    "--calibration",
    "16",
    "--workers",
    "1",
    "--device",
    "cpu",
    "--threads",
    "1",
]


def command(processes: int, *arguments: str, restarts: int = 0) -> list[str]:
    launcher = [sys.executable, "-P"]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher += [f"--max-restarts={restarts}"]
    return [*launcher, "-m", "rsquant", "train", *arguments]


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [p for child in map(int, children) for p in (child, *descendants(child))]


def is_worker(pid: int) -> bool:
    """Whether it is a training process itself: not torchrun, nor one that loads images."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        other = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"rsquant" in words and words != other and b"torch.distributed.run" not in words


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def killed(process: subprocess.Popen[bytes], chance: random.Random, processes: int) -> str:
    """Kill what trains; returns what was killed. One of several: torchrun restarts them all."""
    everyone = [process.pid, *descendants(process.pid)]
    workers = [p for p in everyone if is_worker(p)]
    if processes > 1 and workers and chance.random() < 0.5:
        victim = chance.choice(workers)
        end(victim)
        return f"process {workers.index(victim)} of {len(workers)}"
    for pid in everyone:
        end(pid)
    process.wait()
    # Those that load images see their parent gone by themselves.
    return "all"


def moment(run: Path, chance: random.Random, process: subprocess.Popen[bytes], most: float) -> bool:
    """Wait until a random moment; half of them within a training that goes. False if it ended."""
    if chance.random() < 0.75:
        before = (run / runs.LOG).stat().st_size if (run / runs.LOG).exists() else 0
        while process.poll() is None:
            if (run / runs.LOG).exists() and (run / runs.LOG).stat().st_size != before:
                break
            time.sleep(0.005)
    until = time.monotonic() + chance.uniform(0, most)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    return process.poll() is None


def final(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_tensors(run / runs.STATE, TrainingState.FORMAT, TrainingState.VERSION)
    best, _ = read_tensors(run / runs.LAST, *_checkpoint_format())
    return tensors | {f"last.{name}": tensor for name, tensor in best.items()}


def _checkpoint_format() -> tuple[str, int]:
    from rsquant.models import checkpoint

    return checkpoint.FORMAT, checkpoint.VERSION


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--most", type=float, default=2.0, help="seconds into a training, at most")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop killing after so many")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chance, count = random.Random(given.seed), given.processes
    settings = [*SETTINGS, "--epochs", str(given.epochs), "--save-minutes", "0.0005"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        log = open("output.txt", "ab")  # noqa: SIM115
        quiet = {"stdout": log, "stderr": log}
        subprocess.run(command(count, *settings, "--name", "whole"), check=True, **quiet)
        run, kills, starts = Path("runs/cut"), 0, 0
        whole = time.monotonic() - began
        print(f"undisturbed: {whole:.0f} s", flush=True)
        done = False
        while not done:
            starts += 1
            fresh = not (run / runs.CONFIG).is_file()
            arguments = [*settings, "--name", "cut", "--exist-ok"] if fresh else ["--resume", "cut"]
            # What cannot be killed any more must end by itself.
            process = subprocess.Popen(
                command(count, *arguments, restarts=1000), start_new_session=True, **quiet
            )
            try:
                while process.poll() is None:
                    late = kills >= given.kills or time.monotonic() - began > 60 * given.minutes
                    if late:
                        process.wait()
                    elif moment(run, chance, process, given.most):
                        what = killed(process, chance, count)
                        kills += 1
                        print(f"{kills}: {what}", flush=True)
            finally:  # also where this script is stopped
                if process.poll() is None:
                    for pid in (process.pid, *descendants(process.pid)):
                        end(pid)
            if process.returncode not in (0, -signal.SIGKILL):
                log.flush()
                print(Path("output.txt").read_text()[-3000:])
                sys.exit(f"a training ended with {process.returncode}")
            done = process.returncode == 0
            if done and kills < given.kills and time.monotonic() - began < 60 * given.minutes:
                # It ended before all kills: once more from the start.
                if bad := differences(Path("runs/whole"), run):
                    sys.exit(f"after {kills} kills these differ: {', '.join(bad[:5])}")
                print(f"the same bits after {kills} kills; once more", flush=True)
                subprocess.run(["rm", "-r", str(run)], check=True)
                done = False
        if bad := differences(Path("runs/whole"), run):
            sys.exit(f"after {kills} kills these differ: {', '.join(bad[:5])}")
        print(
            f"{kills} kills, {starts} starts, {count} processes, seed {given.seed}: the same bits "
            f"as the undisturbed run ({time.monotonic() - began:.0f} s)"
        )


if __name__ == "__main__":
    main()
