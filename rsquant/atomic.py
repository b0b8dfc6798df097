"""Files that are either the old ones or the new ones, never half of one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsquant.errors import RsquantError
from rsquant.system import remedy, special

# .NAME.PROCESS.tmp of a file, .staged.PROCESS.RANDOM.tmp of a folder of files.
_TEMPORARY = re.compile(r"\.(?P<name>.+?)\.(?P<process>\d+)(\.\w+)?\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it and rename it to `path`.

    What killed processes left of theirs for this file is removed first.

    Raises:
        RsquantError: the disk is full, the folder cannot be written, or `path` is a device, a pipe
            or a folder; `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    check_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep(folder: Path, name: str | None = None, owned: bool = False) -> None:
    """Remove temporary files whose writers are gone; one that cannot be removed stays.

    Args:
        name: of the file they were to become, or "staged" for those of `staging`; None: any.
        owned: nobody else can be writing such files, so a process that has the writer's number is
            another one: after a restart, or in a container, where all runs have the same few.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(entry, _TEMPORARY.fullmatch(entry.name)) for entry in entries]
    except OSError:
        return
    for entry, match in found:
        if match is None or name not in (None, match["name"]):
            continue
        if owned or not _alive(int(match["process"])):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # 0.3 MB in each process that runs a packed network

                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)


def _alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def flush(path: Path) -> None:
    """Have a file's content on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_free(path: str | Path | None, exist_ok: bool) -> None:
    """Raise RsquantError if a file exists that must not be replaced; before the work for it.

    None stands for no file.
    """
    if path is None:
        return
    check_file(path)
    check_takes_files(Path(path).parent)
    if not exist_ok and os.path.exists(path):
        raise RsquantError(f"{path}: exists already; `exist_ok=True` replaces it")


def check_takes_files(folder: Path) -> None:
    """Raise RsquantError if what is to be a folder is a file, or would be below one."""
    there = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
    if not there.is_dir():
        what = "is a file" if there == folder else f"{there} is a file"
        raise RsquantError(f"{folder}: {what}, where a folder is needed; choose another")


def check_file(path: str | Path) -> None:
    """Raise RsquantError for what no file may replace: renaming one over a device removes it."""
    if kind := special(path):
        raise RsquantError(f"{path}: is {kind}; name a file")


# What files of other kinds are called, and who writes them.
_OTHERS = {
    ".onnx": "rsquant export (export_onnx) writes ONNX files",
    ".rsq": "rsquant pack (pack) writes packed files",
    ".safetensors": "checkpoints have that name",
    ".pt": "torch's own files have that name",
    ".pth": "torch's own files have that name",
}


def check_suffix(path: str | Path | None, own: str) -> None:
    """Raise RsquantError for a file name that says another kind of file than is written.

    Args:
        own: the usual suffix; a name may also have none, or one of the user's.
    """
    suffix = "" if path is None else Path(path).suffix.lower()
    if suffix != own and suffix in _OTHERS:
        raise RsquantError(f"{path}: {_OTHERS[suffix]}; name this file *{own}")


def unwritable(path: str | Path, error: OSError) -> RsquantError:
    """The error for a file that could not be written, saying what to do.

    A temporary file is called by the name it was to have.
    """
    if match := _TEMPORARY.fullmatch(os.path.basename(path)):
        path = Path(path).with_name(match["name"])
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RsquantError(f"{path}: the disk is full; free some space and run it again")
    hint = f"; {remedy(error)}" if remedy(error) else ""
    return RsquantError(f"{path}: cannot be written ({error.strerror or error}){hint}")
