"""WebDataset shards, tar files of images and labels, as splits.

The webdataset library reads a shard from its beginning to its end, so images are shuffled within a
buffer, and an epoch cannot be continued at an image. Here its rules are used (patterns, which files
are one sample), and an index makes shards what a folder of images is: every image by its number.
"""

from __future__ import annotations

import os
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOMEM
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from rsquant.data import shard_names
from rsquant.data.download import NotDownloaded, download
from rsquant.data.fingerprint import fingerprint
from rsquant.data.images import UnreadableImage, decode
from rsquant.data.loader import UNREADABLE_SHARE
from rsquant.data.shard_index import ShardIndex, shard_index
from rsquant.data.split import Source
from rsquant.errors import DataError
from rsquant.packages import require
from rsquant.system import open_regular, refusal

MOST_CLASSES = 100_000
LARGEST_IMAGE = 1 << 30  # bytes of a file
# Seconds; 10,000 images are indexed in two, but downloads take their time.
_TELL_EVERY = 10.0


@dataclass(frozen=True)
class Shard:
    """A shard that can be read: what the user called it, the file, its index."""

    name: str
    path: str
    index: ShardIndex


class ShardSplit:
    """Images in tar files. Names are one block of bytes, as in `sources.FolderSplit`."""

    def __init__(self, shards: Sequence[Shard], labels: np.ndarray) -> None:
        counts = [len(shard.index.names) for shard in shards]
        names = [os.fsencode(name) for shard in shards for name in shard.index.names]
        self._shards = [(shard.name, shard.path) for shard in shards]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self._offsets = _joined([shard.index.offsets for shard in shards])
        self._sizes = _joined([shard.index.sizes for shard in shards])
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._labels = labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def name(self, i: int) -> str:
        start = int(self._ends[i - 1]) if i else 0
        member = os.fsdecode(self._names[start : int(self._ends[i])])
        return f"{self._shards[self._shard[i]][0]}/{member}"

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        path, size = self._shards[self._shard[i]][1], int(self._sizes[i])
        if size > LARGEST_IMAGE:
            raise UnreadableImage(f"a file of {size:,} bytes")
        try:
            with open_regular(path) as file:
                data = os.pread(file.fileno(), size, int(self._offsets[i]))
        except OSError as error:
            if error.errno in (EMFILE, ENFILE, ENOMEM):
                raise
            raise UnreadableImage(f"its shard: {error.strerror or error}") from error
        if len(data) < size:
            raise UnreadableImage("its shard ends before it")
        return decode(data, min_side)

    def identity(self) -> tuple[bytes, np.ndarray, np.ndarray]:
        """What tells its images apart, wherever the shards are."""
        return self._names, self._ends, self._labels


def shards_source(shards: shard_names.Shards, cache: Path | None) -> Source:
    """Open shards: those of the web are downloaded, all are indexed; both once.

    Args:
        cache: a folder for downloads and indexes; None: there is no place for them.
    Raises:
        DataError: more than 1 % of a part's images are in shards that are missing or cut short, or
            have no label; labels of both kinds, numbers and names; classes to validate on that
            are not among those to train on.
        MissingPackage: webdataset is not installed.
    """
    require("a data set of shards", "shards", "webdataset")
    notes = [shards.note] if shards.note else []
    parts = {}
    for part, names in (("train", shards.train), ("val", shards.val)):
        parts[part], note = _readable(part, names, cache)
        notes += [note] if note else []
    classes, labels = _classes(parts)
    train, val = (ShardSplit(parts[part], labels[part]) for part in ("train", "val"))
    identity = (*train.identity(), *val.identity())
    return Source(
        _set_name(shards.train[0]),
        classes,
        train,
        val,
        "; ".join(notes),
        shards.place,
        fingerprint(classes, *identity),
    )


def _readable(part: str, names: Sequence[str], cache: Path | None) -> tuple[list[Shard], str]:
    """The shards of a part that can be read, and what to tell of others.

    How many images a missing shard had is not known: as many as the whole ones, on average; so had
    one that is cut short, or one more than it has.
    """
    found: list[Shard] = []
    wrong: list[str] = []
    told = time.monotonic()
    missing = 0
    for number, name in enumerate(names):
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            print(f"data: {number} of {len(names)} shards are indexed", file=sys.stderr)
        try:
            path = _local(name, cache)
            index = shard_index(path, None if cache is None else cache / "indexes")
        except (OSError, NotDownloaded) as error:
            if isinstance(error, OSError) and (line := refusal(error)):
                raise DataError(f"data: {name} cannot be read: {line}") from error
            verb = "downloaded" if isinstance(error, NotDownloaded) else "read"
            reason = getattr(error, "strerror", None) or error
            wrong.append(f"shard {name} cannot be {verb}: {reason}")
            missing += 1
            if missing > UNREADABLE_SHARE * len(names):  # all are tried for minutes otherwise
                break
            continue
        found.append(Shard(name, path, index))
        if index.damage:
            kept = "" if path == name else f" ({path}; delete it to have it downloaded again)"
            wrong.append(f"shard {name} is damaged: {index.damage}{kept}")
        wrong += [f"{name}/{sample}: {why}" for sample, why in index.lost]
    count = sum(len(shard.index.names) for shard in found)
    whole = [len(shard.index.names) for shard in found if not shard.index.damage]
    where = f"of the {len(names)} shards to {_verb(part)} on"
    if not whole:
        raise DataError(f"data: {where} not one is whole; {wrong[0]}{_more(wrong)}; restore them")
    usual = sum(whole) / len(whole)
    lost = usual * missing + sum(
        len(shard.index.lost)
        + (max(1.0, usual - len(shard.index.names)) if shard.index.damage else 0.0)
        for shard in found
    )
    if not count and not wrong:
        raise DataError(f"data: {where} none has an image with a label beside it (.cls or .json)")
    if lost > UNREADABLE_SHARE * (count + lost):
        raise DataError(
            f"data: {where} about {100 * lost / (count + lost):.1f} % of the images cannot be read "
            f"(at most 1 % are left out); {wrong[0]}{_more(wrong)}; restore what is missing or "
            "damaged"
        )
    note = ""
    if wrong:
        note = f"data: left out of what to {_verb(part)} on: {wrong[0]}{_more(wrong)}"
    return found, note


def _verb(part: str) -> str:
    return "train" if part == "train" else "validate"


def _more(wrong: Sequence[str]) -> str:
    return f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""


def _local(name: str, cache: Path | None) -> str:
    if not shard_names.is_url(name):
        return name
    if cache is None:
        raise DataError(
            f"data: {name} is to be downloaded, and there is no home folder to keep it in; set "
            "XDG_CACHE_HOME to a folder"
        )
    return str(download(name, cache, _no_tar))


def _no_tar(path: Path) -> str:
    """What is there in place of a tar file: some servers send a page to log in as they would one.

    A tar file that is damaged further on is one, and is told as such.
    """
    try:
        with tarfile.open(path, "r:"):
            return ""
    except tarfile.TarError:
        with path.open("rb") as file:
            start = file.read(60).split(b"\0")[0].decode(errors="replace").strip()
    begins = f"something that begins with '{start}'" if start else "nothing"
    return f"the server sends no tar file but {begins}"


def _classes(
    parts: dict[str, list[Shard]],
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes, and each image's position in them.

    Numbers are positions, and the classes are called by them, up to the largest; names are sorted.
    """
    text = {
        part: [label for s in found for label in s.index.labels] for part, found in parts.items()
    }
    known = {part: set(labels) for part, labels in text.items()}
    every = known["train"] | known["val"]
    numbers = {label for label in every if label.isascii() and label.isdigit() and len(label) < 10}
    if numbers and numbers != every:
        name, number = min(every - numbers), min(numbers)
        raise DataError(
            f"data: labels of shards are numbers ('{number}') and names ('{name}'); all must be of "
            "one kind"
        )
    place: dict[str, int]
    if numbers:
        place = {label: int(label) for label in every}
        largest = max(place.values())
        if largest >= MOST_CLASSES:
            raise DataError(
                f"data: a label of the shards is {largest}; numbers of classes begin at 0 and are "
                f"below {MOST_CLASSES}"
            )
        classes = tuple(map(str, range(largest + 1)))
    else:
        classes = tuple(sorted(every))
        place = {label: i for i, label in enumerate(classes)}
    only = {place[label] for label in known["val"]} - {place[label] for label in known["train"]}
    if only:
        raise DataError(
            f"data: class '{classes[min(only)]}' is in shards to validate on but in none to train "
            f"on ({len(only)} such)"
        )
    return classes, {
        part: np.array([place[label] for label in labels], np.int32)
        for part, labels in text.items()
    }


def _set_name(shard: str) -> str:
    path = urlsplit(shard).path if shard_names.is_url(shard) else os.path.abspath(shard)
    return os.path.basename(os.path.dirname(path)) or "shards"


def _joined(parts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.concatenate([np.array(part, np.int64) for part in parts])
