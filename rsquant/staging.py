"""Folders of files that are either the old ones or the new ones."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsquant.atomic import check_file, flush, sweep, unwritable
from rsquant.made import Made


@contextmanager
def staging(folder: Path, own: bool = False) -> Iterator[Path]:
    """Yield a new folder inside `folder`; on success fsync its files and move them to `folder`.

    For files that name each other: they already have their names while they are being made. They
    are moved one by one, after all that can be foreseen to fail. What killed processes left of such
    folders is removed first.

    Args:
        own: list them as made by rsquant (`made`), and replace only files that are listed so.
    Raises:
        RsquantError: the disk is full or the folder cannot be written, or it has a file that is not
            to be replaced; its files are as they were, and so is a folder that was not there.
    """
    folder = Path(folder)
    temporary: Path | None = None
    new = [part for part in (folder, *folder.parents) if not os.path.exists(part)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, "staged")
        prefix = f".staged.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=folder))
        yield temporary
        for made in sorted(temporary.iterdir()):
            flush(made)
            # What alone keeps a file from being renamed on one disk; seen before the first is.
            if (folder / made.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), made.name)
            check_file(folder / made.name)
        if own:
            listed, files = Made(folder), {one.name: one for one in temporary.iterdir()}
            for name in sorted(files):
                listed.check(folder / name, exist_ok=True)
            listed.note(files)
        for made in sorted(temporary.iterdir()):
            os.replace(made, folder / made.name)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # there are files in it: it worked
            for part in new:
                part.rmdir()
