"""What a user names to predict: pictures, folders, patterns, standard input, videos, cameras."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsquant.decoding import EXTENSIONS, Pixels, decode, is_image
from rsquant.errors import DataError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
CAMERA = "camera"
STDIN = "-"
_KNOWN = ", ".join(sorted(one.removeprefix(".") for one in EXTENSIONS))


@dataclass(frozen=True)
class Input:
    """A picture, or something that has many.

    Attributes:
        name: as the user would name it.
        kind: "picture", "stdin", "video" or "camera".
        place: below the folder that was named; where a marked picture of it is saved.
    """

    name: str
    kind: str
    place: Path

    @property
    def live(self) -> bool:
        """Whether its pictures come at their own pace."""
        return self.kind == "camera"

    def picture(self) -> Pixels:
        """The pixels of a picture. Raises UnreadableImage."""
        return decode(sys.stdin.buffer.read() if self.kind == "stdin" else self.name)


def expand(named: Sequence[str]) -> list[Input]:
    """All that some arguments mean, in their order; of a folder and a pattern sorted by name.

    Args:
        named: files, folders (with what is below them), patterns of shells, "-" (a picture from
            standard input), videos, and camera or camera:N.
    Raises:
        DataError: a folder without pictures, a pattern that nothing matches, "-" twice. A file that
            is not there is an unreadable picture.
    """
    found: list[Input] = []
    for name in named:
        found += _expand(name)
    if sum(one.kind == "stdin" for one in found) > 1:
        raise DataError("standard input: '-' is given twice; it holds one picture")
    return found


def _expand(name: str) -> Iterator[Input]:
    path = Path(name)
    if name == STDIN:
        yield Input(name, "stdin", Path("stdin"))
    elif name == CAMERA or name.startswith(f"{CAMERA}:"):
        yield Input(name, "camera", Path(name.replace(":", "_")))
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _is_picture(p))
        if not files:
            raise DataError(f"{name}: this folder has no pictures; supported are {_KNOWN}")
        for file in files:
            yield Input(str(file), "picture", file.relative_to(path))
    elif not path.exists() and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise DataError(f"{name}: no file matches this pattern")
        for match in matches:
            yield from _expand(match)
    elif path.suffix.lower() in VIDEOS:
        yield Input(name, "video", Path(path.stem))
    else:
        yield Input(name, "picture", Path(path.name))


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in EXTENSIONS or (not suffix and is_image(str(path)))
