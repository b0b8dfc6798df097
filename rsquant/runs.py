"""Run folders: where they are, which is the newest, which checkpoint is meant."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rsquant.choices import CHECKPOINTS, listed
from rsquant.errors import CheckpointError, ConfigError
from rsquant.system import special

RUNS = Path("runs")
CONFIG = "config.yaml"
BEST, LAST = "best.safetensors", "last.safetensors"
STATE = "state.safetensors"
LOG, METRICS = "log.txt", "metrics.csv"
LEVELS = "levels.csv"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the run folder it lies in, if it lies in one.

    Attributes:
        note: why it is this one, where that may surprise; else "".
    """

    path: Path
    run: Path | None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.path}{f' ({self.note})' if self.note else ''}"


def all_runs(root: Path = RUNS) -> list[Path]:
    """Run folders, the one last trained first; packing, exporting and reading do not count."""
    if not root.is_dir():
        return []
    runs = [p for p in root.iterdir() if (p / CONFIG).is_file()]
    return sorted(runs, key=_last_trained, reverse=True)


def _last_trained(run: Path) -> float:
    """When training wrote to the folder last; of one that has not begun, when it was configured."""
    times = []
    for name in (STATE, LOG, METRICS, BEST, LAST):
        with suppress(OSError):
            times.append((run / name).stat().st_mtime)
    if not times:
        with suppress(OSError):
            times.append((run / CONFIG).stat().st_mtime)
    return max(times, default=0.0)


def folder(target: str | Path, root: Path = RUNS) -> tuple[Path, str]:
    """The folder that a run's name or a path means, and a note where both exist.

    A run's name wins over another folder of that name: `./NAME` means the folder.
    """
    run = root / target
    if Path(target).name != str(target) or not (run / CONFIG).is_file():
        return Path(target), ""
    if not Path(target).is_dir() or os.path.realpath(target) == os.path.realpath(run):
        return run, ""
    return run, f"the run of that name; ./{target} is a folder too"


def newest(root: Path = RUNS, containing: str = CONFIG) -> Path | None:
    """The run last trained that has a file of this name, or None."""
    return next((run for run in all_runs(root) if (run / containing).is_file()), None)


def around(file: Path) -> Checkpoint | None:
    """The run in whose folder a file is, None where it is in none.

    By path: a run that is called as that folder is another one.
    """
    try:
        return resolve(file.parent.absolute())
    except CheckpointError:
        return None


def resolve(target: str | Path | None = None, which: str = "best") -> Checkpoint:
    """The checkpoint a user means.

    Args:
        target: a run folder, a run's name under runs/, a checkpoint file, or None for the newest
            run, the one last trained. A run's name wins over a folder of that name.
        which: "best" or "last", for a run folder.
    Raises:
        CheckpointError: no such run or file, or a run without a finished epoch.
        ConfigError: "last" of another file.
    """
    if which not in CHECKPOINTS:
        raise ConfigError(f"checkpoint: must be {listed(CHECKPOINTS)}, got '{which}'")
    name = BEST if which == "best" else LAST
    if target is None:
        run = newest(containing=name)
        if run is None:
            raise CheckpointError(
                "runs/: no trained network here; run 'rsquant train' first, "
                "or name a run folder or checkpoint"
            )
        return Checkpoint(run / name, run)
    path, note = folder(target)
    if not path.exists() and (RUNS / path).is_dir():
        path = RUNS / path
    if path.is_dir():
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: has no {name}; a run has one after its first epoch. "
                f"Continue it with `resume({str(path)!r})`"
            )
        return Checkpoint(path / name, path, note)
    if kind := special(path):
        raise CheckpointError(f"{path}: is {kind}; name a run folder or a checkpoint file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such run folder or checkpoint file")
    if which == "last" and path.name != LAST:
        raise ConfigError(
            f"checkpoint: chooses one of a run folder, and {path} is a file; leave it out"
        )
    run = path.parent if (path.parent / CONFIG).is_file() else None
    return Checkpoint(path, run)
