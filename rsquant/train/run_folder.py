"""The folder of a run: its name, making and clearing it, and its configuration."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rsquant import config as configs
from rsquant import runs
from rsquant.atomic import replacing, sweep
from rsquant.config import RunConfig
from rsquant.errors import ConfigError
from rsquant.made import Made
from rsquant.train.distributed import LAUNCH
from rsquant.train.recorder import EVENTS, LOG, METRICS

# What training alone writes in a run folder.
WRITTEN = (LOG, METRICS, runs.LEVELS, runs.STATE, runs.LAST, runs.BEST, runs.CONFIG, LAUNCH)

# What is drawn and measured of the network, and of TensorBoard the recorder's own files.
_MADE = ("curves.png", "study.json", f"events.out.tfevents.*{EVENTS}")
# Where other commands put what they make from it; they list it there.
_FOLDERS = ("", "export", "report")


def _check_name(name: str) -> None:
    """Raise ConfigError for what is no name of a folder below runs/, or of one far below it."""
    parts = name.split("/")
    if name.startswith("/") or any(p in ("", ".", "..") for p in parts):
        raise ConfigError(
            f"name: must be a name below runs/, such as first or trials/first, got '{name}'"
        )
    if not name.isprintable():
        raise ConfigError(f"name: must be printable text, got {name!r}")


def new_folder(stem: str, name: str | None, exist_ok: bool, root: Path) -> Path:
    """Make the folder, so that no other process makes it too; or find the one to replace.

    Args:
        stem: what a name is made of where none is given.
    """
    if name is not None:
        _check_name(name)
    try:
        if name is not None:
            run = root / name
            try:
                run.mkdir(parents=True, exist_ok=exist_ok)
            except FileExistsError:
                if not run.is_dir():
                    raise ConfigError(f"{run}: is a file; choose another `name`") from None
                raise ConfigError(
                    f"{run}: exists already; choose another `name`, continue it with "
                    f"`resume({str(run)!r})`, or replace it with `exist_ok=True`"
                ) from None
            _check_is_run(run)
            return run
        run, number = root / stem, 2
        while True:
            try:
                run.mkdir(parents=True)
                return run
            except FileExistsError:
                if not run.exists() and not run.is_symlink():
                    raise  # it was the folder above: a link to nothing
                run, number = root / f"{stem}-{number}", number + 1
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror})") from error


def _check_is_run(run: Path) -> None:
    """Raise ConfigError for a folder with files that is not that of a run."""
    if (run / runs.CONFIG).is_file():
        return
    others = sorted(
        one.name for one in run.iterdir() if one.name not in WRITTEN and one.name[0] != "."
    )
    if others:
        raise ConfigError(
            f"{run}: is no run folder, it has {others[0]} and no {runs.CONFIG}; choose another "
            "`name`, or empty it"
        )


def clear(run: Path) -> None:
    """Remove what an earlier run in the folder left, and what was made from its network.

    Packed and exported files and reports go if they are as rsquant made them, see `made`. The
    configuration goes last: until then the folder is that of a run.
    """
    remove_temporary(run)
    try:
        for pattern in _MADE:
            for old_file in run.glob(pattern):
                old_file.unlink()
        for folder in _FOLDERS:
            Made(run / folder).remove()
        for old in WRITTEN:
            (run / old).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror})") from error


def remove_temporary(run: Path) -> None:
    """Remove temporary files that a killed training left in its folder, which is locked."""
    for name in WRITTEN:
        sweep(run, name, owned=True)
    sweep(run)
    for path in run.glob(".tmp??????"):  # those of rsquant 0.1
        with suppress(OSError):
            path.unlink()


def write_config(config: RunConfig, run: Path) -> None:
    with replacing(run / runs.CONFIG) as temporary:
        temporary.write_text(configs.dump_yaml(config))
