"""Run folders: where they are, which is the newest, which checkpoint is meant."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rsquant.errors import CheckpointError, ConfigError

RUNS = Path("runs")
CONFIG = "config.yaml"
BEST, LAST = "best.safetensors", "last.safetensors"
STATE = "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the run folder it lies in, if it lies in one."""

    path: Path
    run: Path | None


def all_runs(root: Path = RUNS) -> list[Path]:
    """Run folders, the one written to last first."""
    if not root.is_dir():
        return []
    runs = [p for p in root.iterdir() if (p / CONFIG).is_file()]
    return sorted(runs, key=_last_written, reverse=True)


def _last_written(run: Path) -> float:
    times = []
    for path in run.iterdir():
        # A temporary file of a run in progress may be gone by now.
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def newest(root: Path = RUNS, containing: str = CONFIG) -> Path | None:
    """The run written to last that has a file of this name, or None."""
    return next((run for run in all_runs(root) if (run / containing).is_file()), None)


def resolve(target: str | Path | None = None, which: str = "best") -> Checkpoint:
    """The checkpoint a user means.

    Args:
        target: a run folder, a run's name under runs/, a checkpoint file, or None for the newest
            run.
        which: "best" or "last", for a run folder.
    Raises:
        CheckpointError: no such run or file, or a run without a finished epoch.
    """
    if which not in ("best", "last"):
        raise ConfigError(f"checkpoint: must be best or last, got '{which}'")
    name = BEST if which == "best" else LAST
    if target is None:
        run = newest(containing=name)
        if run is None:
            raise CheckpointError(
                "runs/: no trained network here; run 'rsquant train' first, "
                "or name a run folder or checkpoint"
            )
        return Checkpoint(run / name, run)
    path = Path(target)
    if not path.exists() and (RUNS / path).is_dir():
        path = RUNS / path
    if path.is_dir():
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: has no {name}; a run has one after its first epoch. "
                "Continue it with 'rsquant train --resume'"
            )
        return Checkpoint(path / name, path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such run folder or checkpoint file")
    run = path.parent if (path.parent / CONFIG).is_file() else None
    return Checkpoint(path, run)
