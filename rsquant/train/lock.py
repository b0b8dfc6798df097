"""A run folder belongs to one training process at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import register_after_fork
from pathlib import Path

from rsquant.atomic import unwritable
from rsquant.errors import ConfigError

LOCK = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder inside the block; it is free again when the process ends, however it does.

    The lock is one of the operating system's on a file that stays and names who holds it. On a file
    system without locks nothing is held.

    Raises:
        ConfigError: another training holds it, of this process or any other.
        RsquantError: the folder cannot be written.
    """
    path = run / LOCK
    try:
        file = _Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            fcntl.flock(file.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{run}: {_holder(file.number)} is training in it; wait for it or stop it (it "
                "saves its state), or choose another `name`"
            ) from None
        except OSError:
            pass  # no locks here
        _write(file.number, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            _write(file.number, "")
    finally:
        file.close()


class _Descriptor:
    """An open file that processes forked from this one close: they would hold the lock too.

    The loader's workers live on for some seconds when their parent is killed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        register_after_fork(self, _Descriptor.close)

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)
        self.number = -1


def _holder(descriptor: int) -> str:
    """Who wrote to the file that it holds it; a moment may pass between the lock and that."""
    return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"


def _write(descriptor: int, text: str) -> None:
    with suppress(OSError):  # a full disk does not matter here
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
