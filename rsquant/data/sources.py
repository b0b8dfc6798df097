"""The name of a data set -> two splits of labelled images."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import Tensor

from rsquant.data import shard_names
from rsquant.data.fingerprint import fingerprint
from rsquant.data.images import EXTENSIONS, decode, is_image
from rsquant.data.split import Source, Split
from rsquant.errors import DataError
from rsquant.system import refusal

GENERATED = "shapes"
LAYOUT = "required layout: train/<class>/*.jpg and val/<class>/*.jpg, or train-*.tar and val-*.tar"


def open_source(
    spec: str,
    seed: int = 0,
    train_images: int | None = None,
    val_images: int | None = None,
    root: Path | None = None,
) -> Source:
    """Open the images that the name of a data set means.

    Args:
        spec: a folder with train/<class>/* and val/<class>/*; a folder with train-*.tar and
            val-*.tar, or a pattern of such shards, local or of the web, see `shard_names`;
            "torchvision:NAME"; or "shapes", generated. What is not there yet is downloaded.
        seed: chooses the generated set. Files are never chosen by chance.
        train_images, val_images: use only so many, evenly over the classes and always the same
            ones; for "shapes", how many to generate (3000 and 600). None: all.
        root: where downloads are kept; default ~/.cache/rsquant/torchvision, and of shards
            rsquant/shards in XDG_CACHE_HOME or ~/.cache.
    Raises:
        DataError: nothing there, wrong layout, differing classes, a class without images, an
            unknown name, a failed download, or a limit below 1.
    """
    for key, limit in (("train_images", train_images), ("val_images", val_images)):
        if limit is not None and limit < 1:
            raise DataError(f"data: {key} must be at least 1, got {limit}")
    if spec == GENERATED:
        from rsquant.data.shapes import shapes_source

        source = shapes_source(seed, train_images, val_images)
        note = ""
        if os.path.isdir(os.path.join(spec, "train")):
            note = "data: the generated set; the folder of that name is ./shapes"
        return dataclasses.replace(source, place=spec, note=note)
    if spec.startswith("torchvision:"):
        from rsquant.data.torchvision_sets import torchvision_source

        folder = root or _home("~/.cache/rsquant/torchvision")
        source = torchvision_source(spec.removeprefix("torchvision:"), folder)
    elif (shards := _shards(spec)) is not None:
        from rsquant.data.shards import shards_source

        source = shards_source(shards, root or _cache())
    else:
        source = _folder_source(spec)
    return dataclasses.replace(
        source,
        train=limited(source.train, train_images),
        val=limited(source.val, val_images),
    )


def limited(split: Split, limit: int | None) -> Split:
    """At most `limit` images, as even over the classes as they allow, evenly spaced in each."""
    if limit is None or limit >= len(split):
        return split
    labels = np.array([split.label(i) for i in range(len(split))])
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    quota = _even_quota([len(m) for m in members], limit)
    chosen = [m[(np.arange(q) * len(m)) // max(q, 1)] for m, q in zip(members, quota, strict=True)]
    return Subset(split, np.sort(np.concatenate(chosen)))


def _even_quota(sizes: Sequence[int], limit: int) -> list[int]:
    """How many to take of each: equal shares, small classes in full, the remainder first come."""
    quota, left = [0] * len(sizes), limit
    while left:
        open_classes = [c for c, size in enumerate(sizes) if quota[c] < size]
        share = max(1, left // len(open_classes))
        for c in open_classes:
            take = min(share, sizes[c] - quota[c], left)
            quota[c] += take
            left -= take
    return quota


class Subset:
    """Some images of another split, in the order of `indices`."""

    def __init__(self, split: Split, indices: np.ndarray) -> None:
        self._split, self._indices = split, indices

    def __len__(self) -> int:
        return len(self._indices)

    def label(self, i: int) -> int:
        return self._split.label(int(self._indices[i]))

    def name(self, i: int) -> str:
        return self._split.name(int(self._indices[i]))

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        return self._split.image(int(self._indices[i]), min_side)


class FolderSplit:
    """Image files in one folder per class.

    The names are one block of bytes, not a list: a million Python strings would be copied into
    every worker as soon as their reference counts change.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = os.fspath(folder)
        names, labels = [], []
        self.others: list[str] = []  # files that were left out
        for label, name in enumerate(classes):
            place = os.path.join(self._folder, name)
            above = tuple(
                (s.st_dev, s.st_ino) for s in map(os.stat, (self._folder, self._folder + "/.."))
            )
            files = sorted(_image_files(place, name, self.others, above))
            if not files:
                raise DataError(
                    f"data: {folder / name} holds no images ({', '.join(EXTENSIONS)}); "
                    "add some or delete the folder"
                )
            names += [os.fsencode(f) for f in files]
            labels += [label] * len(files)
        self._names = b"".join(names)
        self._ends = np.cumsum([len(n) for n in names])
        self._labels = np.array(labels, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def name(self, i: int) -> str:
        start = int(self._ends[i - 1]) if i else 0
        return os.path.join(self._folder, os.fsdecode(self._names[start : int(self._ends[i])]))

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        return decode(self.name(i), min_side)

    def identity(self) -> tuple[bytes, np.ndarray]:
        """What tells its images apart, wherever the folder is: names and where each ends."""
        return self._names, self._ends


def _home(path: str) -> Path:
    """A path with its ~ resolved."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no HOME and no entry in passwd, or no such user
        raise DataError(
            f"data: {path} needs a home folder, and there is none ({error}); set HOME, or give a "
            "full path"
        ) from error


def _cache() -> Path | None:
    """Where shards and their indexes are kept; None where there is no place."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with suppress(DataError):
        return _home(base) / "rsquant" / "shards"
    return None


def _shards(spec: str) -> shard_names.Shards | None:
    """The shards that a folder holds, unless it has folders of classes, or a pattern means."""
    try:
        folder = _home(spec)
        if folder.is_dir():
            with suppress(OSError, DataError):
                _classes(folder / "train")
                return None
            found = shard_names.in_folder(folder)
            return shard_names.divide(found, str(folder.resolve())) if found else None
    except (OSError, ValueError):
        return None  # as a folder it says what is wrong
    if not shard_names.means_shards(spec):
        return None
    return shard_names.of_pattern(spec)


def _folder_source(spec: str) -> Source:
    folder = _home(spec)
    try:
        return _read_folder(spec, folder)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        line = refusal(error) or " ".join(str(error).split())
        raise DataError(f"data: {folder} cannot be read: {line}") from error


def _read_folder(spec: str, folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError(
            f"data: '{spec}' is not a folder; give `data` a folder ({LAYOUT}), a pattern of "
            "shards like 'DIR/{train,val}-{000..010}.tar', torchvision:NAME or shapes"
        )
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise DataError(f"data: {folder} has no {part}/ folder; {LAYOUT}")
    train, val = _classes(folder / "train"), _classes(folder / "val")
    differing = sorted(set(train) ^ set(val))
    if differing:
        first = differing[0]
        here, there = ("train", "val") if first in train else ("val", "train")
        raise DataError(
            f"data: class '{first}' is in {folder / here} but not in {folder / there} "
            f"({len(differing)} such); both need the same class folders"
        )
    splits = FolderSplit(folder / "train", train), FolderSplit(folder / "val", val)
    others = [
        f"{part}/{name}"
        for part, split in zip(("train", "val"), splits, strict=True)
        for name in split.others
    ]
    note = ""
    if others:
        note = (
            f"data: {len(others)} files are not images (judged by name, or without an extension "
            f"by their first bytes) and are ignored; the first is {others[0]}"
        )
    place = folder.resolve()
    parts = [part for split in splits for part in split.identity()]
    return Source(place.name, tuple(train), *splits, note, str(place), fingerprint(train, *parts))


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        # A link that leads to itself is an error here: a class would be missing.
        classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not classes:
        raise DataError(f"data: {folder} holds no class folders; {LAYOUT}")
    return classes


def _image_files(
    folder: str, prefix: str, others: list[str], above: tuple[tuple[int, int], ...] = ()
) -> list[str]:
    """Image files under a folder, recursively, as prefix/...; scandir needs no stat per file.

    A name without an extension counts where the file begins like an image.

    Args:
        others: gets the other files, but for hidden ones.
        above: device and number of the folders it lies in.
    Raises:
        DataError: a link leads back to a folder it lies in: its images would be found for ever.
    """
    found = []
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in above:
        raise DataError(
            f"data: {folder} is a link to a folder that contains it, so its images would be "
            "counted repeatedly; remove the link"
        )
    above = (*above, (here.st_dev, here.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}/{entry.name}"
            if entry.name.lower().endswith(EXTENSIONS):
                found.append(name)
            elif _is(entry.is_dir):
                found += _image_files(entry.path, name, others, above)
            elif "." not in entry.name and _is(entry.is_file) and is_image(entry.path):
                found.append(name)
            else:
                others.append(name)
    return found


def _is(test: Callable[[], bool]) -> bool:
    """Whether a directory entry is of a kind; a link that leads to itself is of none."""
    try:
        return test()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise
