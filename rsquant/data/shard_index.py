"""Where the images of one tar file are, and their labels: what makes it a list of images.

Made once by reading the file's headers and labels, then kept in the user's cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rsquant.atomic import replacing
from rsquant.data.images import EXTENSIONS
from rsquant.errors import RsquantError
from rsquant.system import open_regular

# Where a label is in a sample's .json.
KEYS = ("label", "cls", "class")
_VERSION = 1
_LONGEST_LABEL = 1 << 20
_SUFFIXES = frozenset(extension[1:] for extension in EXTENSIONS)


@dataclass
class ShardIndex:
    """The samples of a shard that have an image and a label, in its order.

    Attributes:
        names: of image files in the shard.
        offsets, sizes: of their bytes in the shard.
        labels: as text: a class's number or name.
        lost: (name, why) of samples that cannot be used.
        others: how many samples have no image.
        damage: why the shard ends before its end; "" where it does not.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lost: list[list[str]] = field(default_factory=list)
    others: int = 0
    damage: str = ""


def shard_index(path: str, cache: Path | None) -> ShardIndex:
    """The index of a local tar file, from the cache where it was made for this very file.

    Args:
        cache: a folder; None: nothing is kept.
    Raises:
        OSError: it cannot be read.
    """
    kept = None
    with open_regular(path) as file:
        state = os.fstat(file.fileno())  # of what is read, whoever replaces it meanwhile
        # Size and time of the last change are kept by copies and by builds; the rest is not.
        own = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        key = [_VERSION, os.path.abspath(path), *own]
        if cache is not None:
            name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:24]
            kept = cache / f"{name}.json"
            with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
                known = json.loads(kept.read_bytes())
                if known.pop("of") == key:
                    return ShardIndex(**known)
        made = read_index(file, state.st_size)
    if kept is not None:
        with suppress(RsquantError, OSError), replacing(kept) as temporary:
            temporary.write_text(json.dumps({"of": key, **dataclasses.asdict(made)}))
    return made


def read_index(file: BinaryIO, size: int) -> ShardIndex:
    """Read a tar file's headers and labels.

    Which files are one sample is the rule of the webdataset library: neighbours whose names are the
    same up to the first dot after the last slash.

    Args:
        file: with a descriptor. size: of the file, in bytes.
    """
    from webdataset.tariterators import group_by_keys

    index = ShardIndex()

    def lose(error: Exception) -> bool:
        index.lost.append(["", str(error.args[0] if error.args else error)])
        return True  # go on

    for sample in group_by_keys(_members(file, size, index), handler=lose):
        suffixes = [s for s in sample if s in _SUFFIXES]
        if not suffixes:
            index.others += 1
            continue
        name, offset, length = sample[suffixes[0]]
        try:
            label = _label(file, sample)
        except ValueError as error:
            index.lost.append([name, str(error)])
            continue
        index.names.append(name)
        index.offsets.append(offset)
        index.sizes.append(length)
        index.labels.append(label)
    return index


def _members(file: BinaryIO, size: int, index: ShardIndex) -> Iterator[dict[str, Any]]:
    """Files of a tar file, in the form the library groups; `damage` says where it cannot go on.

    tarfile stops without a word at a header that is none.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every one
                if member.size < 0:  # tarfile would go back, maybe for ever
                    index.damage = f"the size of {member.name} is negative"
                    return
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    index.damage = f"it ends in the middle of {member.name}"
                    return
                place = member.name, member.offset_data, member.size
                yield {"fname": member.name, "data": place, "__url__": ""}
            end = os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        cut = "end of data" in str(error)
        index.damage = "it ends too early" if cut else f"no tar file, or one with holes ({error})"
        return
    if len(end) < tarfile.BLOCKSIZE:
        index.damage = "it ends without the mark of its end"
    elif end.strip(b"\0"):
        index.damage = f"there is no header at byte {tar.offset}"


def _label(file: BinaryIO, sample: dict[str, Any]) -> str:
    """A sample's label: its .cls, else `KEYS` of its .json. Raises ValueError, with the reason."""
    kind = next((kind for kind in ("cls", "json") if kind in sample), None)
    if kind is None:
        raise ValueError("has no label: no .cls and no .json beside it")
    name, offset, length = sample[kind]
    if length > _LONGEST_LABEL:
        raise ValueError(f"its label {name} is of {length:,} bytes")
    value: Any = os.pread(file.fileno(), length, offset).decode(errors="replace").strip()
    if kind == "json":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not JSON") from error
        known = value if isinstance(value, dict) else {}
        value = next((known[key] for key in KEYS if key in known), None)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).strip():
        where = f"`{'`, `'.join(KEYS)}` in it" if kind == "json" else "in it"
        raise ValueError(f"{name} has no label: no number or name {where}")
    return str(value).strip()
