"""A file from the web, once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from rsquant.atomic import replacing

ATTEMPTS = 3
TIMEOUT = 60.0  # seconds without a byte
PAUSE = 2.0  # seconds before another attempt
_PIECE = 1 << 20


class NotDownloaded(Exception):
    """A file that cannot be had; its message says why."""


def cached(url: str, folder: Path) -> Path:
    """Where a URL's file is kept. What follows "?", such as a signature, does not matter."""
    parts = urlsplit(url)
    plain = f"{parts.scheme}://{parts.netloc}{parts.path}"
    name = re.sub(r"[^\w.-]", "_", parts.path.rpartition("/")[2])[-80:]
    return folder / f"{hashlib.sha256(plain.encode()).hexdigest()[:16]}-{name}"


def download(url: str, folder: Path, complaint: Callable[[Path], str] = lambda path: "") -> Path:
    """The file of a URL in a folder; it is downloaded where it is not there yet.

    Processes that want it at the same time wait for the one that has begun. One that was cut short
    is never taken for whole where the server gives its length.

    Args:
        complaint: says why what came is not what was wanted, such as a page to log in; "" if it is.
            It is not kept then.
    Raises:
        NotDownloaded: after three attempts, or where the server says that it has no such file or
            sends something else.
        RsquantError: the folder cannot be written.
    """
    path = cached(url, folder)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            with replacing(path) as temporary:
                _fetch(url, temporary)
                if reason := complaint(temporary):
                    raise NotDownloaded(reason)
    return path


def _fetch(url: str, target: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _once(url, target)
            return
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                raise NotDownloaded(reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            cause = getattr(error, "reason", error)
            reason = " ".join(str(cause).split()) or type(error).__name__
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * attempt)
    raise NotDownloaded(f"{reason} ({ATTEMPTS} attempts)")


def _once(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file, _PIECE)
        length, received = answer.headers.get("Content-Length"), file.tell()
    if length is not None and length.isdigit() and int(length) != received:
        raise OSError(f"{received:,} of {int(length):,} bytes arrived")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for other processes that hold this file; where there are no locks nobody waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
