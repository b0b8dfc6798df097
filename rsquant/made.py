"""Which files of a folder rsquant has made: a list among them, so that nothing else is replaced.

The list has a line for each file, with a digest of what it holds. A file that was changed since is
its user's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rsquant.errors import RsquantError

LIST = ".rsquant-made"
# Half a million files.
_MOST = 64 * 2**20


class Made:
    """The files that rsquant has made in a folder and below it.

    Args:
        folder: which need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._digests = _read(self.folder / LIST)

    def owns(self, path: Path) -> bool:
        """Whether a file is listed, and still what it was."""
        digests = self._digests.get(os.path.relpath(path, self.folder), set())
        return bool(digests) and not path.is_symlink() and _digest(path) in digests

    def check(self, path: Path, exist_ok: bool) -> None:
        """Raise RsquantError if a file is there, unless it is ours and may be replaced."""
        if not os.path.lexists(path):
            return
        if not exist_ok:
            raise RsquantError(f"{path}: exists already; `exist_ok=True` replaces it")
        if not self.owns(path):
            older = "" if self._digests else ", or is of a version before 0.2, which kept no list"
            raise RsquantError(
                f"{path}: is not as rsquant made it{older}, so it is not replaced; move it, or "
                "choose another folder"
            )

    def note(self, files: Mapping[str, Path]) -> None:
        """List files, best before they get there.

        Args:
            files: by their names in the folder, where they are now.
        Raises:
            OSError: the list cannot be written.
        """
        lines = []
        for name, path in files.items():
            if (digest := _digest(path)) is not None:
                self._digests.setdefault(name, set()).add(digest)
                lines.append(json.dumps({"file": name, "holds": digest}))
        with (self.folder / LIST).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def remove(self) -> None:
        """Remove the files that are as they were made, and the list.

        Raises:
            OSError: one cannot be removed.
        """
        for name in self._digests:
            path = self.folder / name
            if self.owns(path):
                path.unlink()
        (self.folder / LIST).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, set[str]]:
    """Digests by name, all there were: a file may not have got there after it was listed.

    What is no line of ours is passed over, as if its file were not listed.
    """
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST).splitlines()
    except OSError:
        return {}
    digests: dict[str, set[str]] = {}
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            entry = json.loads(line)
            name, digest = entry["file"], entry["holds"]
            if isinstance(name, str) and isinstance(digest, str) and _is_below(name):
                digests.setdefault(name, set()).add(digest)
    return digests


def _is_below(name: str) -> bool:
    """Whether a name is one of a file in the folder or below it, as it is written."""
    parts = name.split("/")
    return "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def _digest(path: Path) -> str | None:
    """Of what a file holds; None where it is none, or cannot be read."""
    import hashlib  # with OpenSSL, 3.5 MB that a process which runs a network has no use for

    if not path.is_file():  # a pipe would wait for a writer
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None
