"""What `data` says of shards -> which tar files are to train on and which to validate on."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters
from urllib.parse import urlsplit

from rsquant.errors import DataError
from rsquant.packages import require

MOST_SHARDS = 1_000_000
HOW = (
    "give a folder with train-*.tar and val-*.tar, or a pattern with both, like "
    "'DIR/{train-{000..146},val-{00..06}}.tar' or 'TRAIN-{000..146}.tar::VAL-{00..06}.tar'"
)
# The part that the words of a name say, the file's before its folder's.
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Shards:
    """Tar files by part: paths or URLs, in their order.

    Attributes:
        place: finds them again from any folder.
        note: what was left out, for the user; "" where nothing was.
    """

    train: list[str]
    val: list[str]
    place: str
    note: str = ""


def is_url(shard: str) -> bool:
    """Whether a shard is to be downloaded."""
    return shard.startswith(("http://", "https://"))


def means_shards(spec: str) -> bool:
    """Whether a value of `data` is a pattern of tar files, not a folder's name."""
    return is_url(spec) or "::" in spec or spec.lower().endswith((".tar", *_COMPRESSED))


def in_folder(folder: Path) -> list[str]:
    """Tar files of a folder and of its folders for parts, by name."""
    places = [folder, *(folder / part for part in _PARTS)]
    return [
        path for place in places for path in sorted(glob.glob(glob.escape(str(place)) + "/*.tar"))
    ]


def expand(spec: str) -> list[str]:
    """Every path and URL of a pattern, in its order.

    Braces and "::" are those of the webdataset library; * and ? find files that exist.

    Raises:
        DataError: it cannot be expanded. MissingPackage: webdataset is not installed.
    """
    require("a data set of shards", "shards", "webdataset")
    from webdataset.shardlists import expand_urls

    try:
        count = sum(map(_count, spec.split("::")))
        named = expand_urls(spec) if count <= MOST_SHARDS else []
    # Of braces; of a variable ${NAME}; of braces in braces in braces.
    except (ValueError, AssertionError, RecursionError) as error:
        raise DataError(f"data: '{spec}' cannot be expanded: {error or 'wrong braces'}") from error
    if count > MOST_SHARDS:
        raise DataError(f"data: '{spec}' means {count:,} shards (at most {MOST_SHARDS:,})")
    shards: list[str] = []
    for name in named:
        if (other := re.match(r"(?!https?:)[A-Za-z][\w+.-]+://", name)) is not None:
            raise DataError(
                f"data: '{name}' begins with {other[0]}, but shards are local files or http(s)://"
            )
        if not is_url(name) and re.search(r"[*?]", name):
            matches = sorted(glob.glob(os.path.expanduser(name)))
            if not matches:
                raise DataError(f"data: no file matches '{name}'")
            shards += matches
        else:
            shards.append(name if is_url(name) else os.path.expanduser(name))
    return shards


def _count(pattern: str) -> int:
    """How many names a pattern means, without making them: there may be too many for the memory.

    Braces beside each other multiply, what commas separate within braces adds up.
    """
    total, depth, begin = 1, 0, 0
    for found in re.finditer(r"\\.|[{}]", pattern):
        if found[0] == "{":
            begin = begin if depth else found.end()
            depth += 1
        elif found[0] == "}":
            depth -= 1
            total *= 1 if depth else _alternatives(pattern[begin : found.start()])
    return total


def _alternatives(braces: str) -> int:
    """How many names the inside of a pair of braces means."""
    if numbers := re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?", braces):
        first, last, step = (int(n or 1) for n in numbers.groups())
        return abs(last - first) // max(1, step) + 1
    if letters := re.fullmatch(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?", braces):
        first, last = (ascii_letters.swapcase().index(letter) for letter in letters.groups()[:2])
        return abs(last - first) // max(1, int(letters[3] or 1)) + 1
    count, depth, begin = 0, 0, 0
    for found in re.finditer(r"\\.|[{},]", braces):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "," and not depth:
            count += _count(braces[begin : found.start()])
            begin = found.end()
    return count + _count(braces[begin:])


def divide(shards: list[str], place: str) -> Shards:
    """Shards to train and to validate on: those named val, valid or validation, else test.

    Raises:
        DataError: one is there twice or compressed, or none is left for a part.
    """
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    seen: dict[str, str] = {}
    for shard in shards:
        if shard in parts[part := _part(shard)]:
            raise DataError(f"data: {shard} is given twice; its images would count twice")
        # A signature behind "?" does not make another file, see `download.cached`.
        plain = shard.partition("?")[0] if is_url(shard) else shard
        if seen.setdefault(plain, shard) != shard:
            raise DataError(
                f"data: {seen[plain]} and {shard} differ behind '?' alone, which is taken for a "
                "signature of one file; give each shard a path of its own"
            )
        if _path(shard).lower().endswith(_COMPRESSED):
            raise DataError(
                f"data: {shard} is compressed, so single images cannot be read from it; "
                "decompress it to .tar"
            )
        parts[part].append(shard)
    note = ""
    if parts["val"] and parts["test"]:
        first = parts["test"][0]
        note = f"data: {len(parts['test'])} shards named test are left out; the first is {first}"
    val = parts["val"] or parts["test"]
    if not parts["train"]:
        raise DataError(f"data: all {len(shards)} shards are named val or test; {HOW}")
    if not val:
        raise DataError(
            f"data: no shard is named val, valid, validation or test, so none is to validate on "
            f"({len(shards)} shards, the first is {shards[0]}); {HOW}"
        )
    return Shards(parts["train"], val, place, note)


def of_pattern(spec: str) -> Shards:
    """The shards that a pattern means; see `expand` and `divide`."""
    shards = expand(spec)
    whole = [one if is_url(one) else os.path.abspath(one) for one in shards]
    place = "::".join(
        one if is_url(one) else os.path.abspath(os.path.expanduser(one)) for one in spec.split("::")
    )
    if expand(place) != whole:  # braces around whole paths
        place = "::".join(whole)
    return divide(shards, place)


def _part(shard: str) -> str:
    folder, file = os.path.split(_path(shard))
    for words in (re.split(r"[^a-z]+", file.lower()), [os.path.basename(folder).lower()]):
        for word in words:
            if word in _PARTS:
                return _PARTS[word]
    return "train"


def _path(shard: str) -> str:
    return urlsplit(shard).path if is_url(shard) else shard
