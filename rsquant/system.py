"""What the machine lacks or refuses, in one line that says what to do."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from rsquant.packages import distribution, extra_of, install

# Of the system's refusals, what to do about each. Those that are not here are no fault of the
# machine's: a file that is missing, for one.
_REMEDIES = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place, or mount it for writing",
    errno.ELOOP: "it is a link to itself; remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file; choose another",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer `workers`",
    errno.ENFILE: "close other programs, or use fewer `workers`",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or use fewer `workers` and `threads`",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EIO: "check the disk or the network it is on, and run it again",
    errno.ESTALE: "check the network it is on, and run it again",
    errno.ENODEV: "name a file",
    errno.ENXIO: "name a file",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "std::bad_alloc",
    "Unable to allocate",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "bad allocation",
)
_DEVICE_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refusal(error: BaseException) -> str | None:
    """What the machine refused or lacks, and what to do; None where that was not the cause.

    Memory (the processor's and a GPU's), disks, files, links, threads, processes and packages that
    are not installed.
    """
    if isinstance(error, ImportError):
        return _missing(error)
    if line := _out_of_memory(error):
        return line
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return f"the system cannot start more threads; {_REMEDIES[errno.EAGAIN]}"
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL:
        return f"{_named(error)}the disk is full; free some space and run it again"
    if error.errno in _REMEDIES:
        return f"{_named(error)}{os.strerror(error.errno)}; {_REMEDIES[error.errno]}"
    return None


def _out_of_memory(error: BaseException) -> str | None:
    """The line for an error that says that memory ran out; None for any other."""
    text = str(error)
    kind = type(error).__name__
    if kind == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(words in text for words in _DEVICE_MEMORY)
    ):
        return "the device is out of memory; use a smaller `batch`, or free some of its memory"
    # What numpy raises is a MemoryError too, and nanobind makes one of std::bad_alloc.
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and any(words in text for words in _MEMORY))
    ):
        return "out of memory; use a smaller `batch`, smaller sizes or fewer `workers`"
    return None


def remedy(error: OSError) -> str:
    """What to do about a system's refusal, "" where that is plain or not known."""
    return "" if error.errno is None else _REMEDIES.get(error.errno, "")


def special(path: str | os.PathLike[str]) -> str | None:
    """What stands at a path in place of a file: "a named pipe", "a device", ..; None: a file.

    Also None where nothing is, or nothing can be seen. Links are followed.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    return _kind(mode)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. A named pipe or a device is refused; opening one may never return.

    Raises:
        OSError: it cannot be read, or is no file; `strerror` says why.
    """
    # A pipe without a writer is opened at once so, and nothing is read from it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = _kind(os.fstat(descriptor).st_mode)
    if kind is not None:
        os.close(descriptor)
        raise OSError(errno.ENODEV, f"is {kind}, not a file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def _kind(mode: int) -> str | None:
    return next((name for test, name in _KINDS if test(mode)), None)


def _named(error: OSError) -> str:
    name = error.filename
    if not isinstance(name, (str, bytes)):
        return ""
    return f"{os.fsencode(name).decode(errors='backslashreplace')}: "


def _missing(error: ImportError) -> str | None:
    module = (error.name or "").partition(".")[0]
    if module in ("", "rsquant"):
        return None
    package = distribution(module)
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        extra = extra_of(module)
        line = f"pip install {package}" if extra is None else install(extra)
        return f"this needs {package}, which is not installed; {line}"
    reason = " ".join(str(error).split())
    return f"{package} cannot be loaded ({reason}); pip install --force-reinstall {package}"
