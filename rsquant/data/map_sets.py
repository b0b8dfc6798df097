"""A folder of images with label files -> two splits. These layouts are known:

- images/ and labels/ with the same file names but for their endings, and lists of these names
  without endings in splits/train.txt and splits/val.txt (or test.txt), as CamVid has;
- images/train, images/val and labels/train, labels/val, without lists;
- leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png (or
  labelTrainIds), as Cityscapes has;
- the files of NYUDv2, see `nyu`.

classes.txt names the classes, one per line, in the order of their numbers; a name that ends with
"(ignore)" is none. Without it the classes are the numbers up to the largest in the training part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rsquant.data.fingerprint import fingerprint
from rsquant.data.images import EXTENSIONS, UnreadableImage
from rsquant.data.label_maps import MOST_CLASSES, Classes, decode_numbers, is_ignored
from rsquant.data.map_split import MapSplit
from rsquant.data.nyu import is_nyu, open_nyu
from rsquant.data.split import IGNORED, Source
from rsquant.errors import DataError
from rsquant.system import refusal

LAYOUT = (
    "required layout: images/, labels/ and splits/train.txt, splits/val.txt; or images/train, "
    "images/val, labels/train, labels/val; or Cityscapes' leftImg8bit/ and gtFine/; or NYUDv2's "
    "nyu_depth_v2_labeled.mat"
)
_PARTS = (("train",), ("val", "valid", "test"))
# Cityscapes' 19 classes in the order of its train ids, and their ids in labelIds files.
_CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
_CITYSCAPES_IDS = 34
_Pairs = list[tuple[Path, Path]]


def open_maps(spec: str, train_images: int | None = None, val_images: int | None = None) -> Source:
    """Open a folder of images with label files.

    Args:
        spec: the folder.
        train_images, val_images: use only so many, evenly spaced. None: all.
    Raises:
        DataError: nothing there, another layout, an image without its label file, an empty part,
            or a limit below 1.
    """
    for key, limit in (("train_images", train_images), ("val_images", val_images)):
        if limit is not None and limit < 1:
            raise DataError(f"data: {key} must be at least 1, got {limit}")
    try:
        folder = Path(spec).expanduser()
        if not folder.is_dir():
            raise DataError(f"data: '{spec}' is not a folder of images and label files; {LAYOUT}")
        return _read(folder.resolve(), train_images, val_images)
    except (OSError, ValueError, RuntimeError) as error:
        line = refusal(error) or " ".join(str(error).split())
        raise DataError(f"data: {spec} cannot be read: {line}") from error


def _read(folder: Path, train_images: int | None, val_images: int | None) -> Source:
    if is_nyu(folder):
        return open_nyu(folder, train_images, val_images)
    if (folder / "leftImg8bit").is_dir():
        train, val = (_cityscapes(folder, names) for names in _PARTS)
        classes = _cityscapes_classes(train)
    elif (folder / "splits").is_dir():
        files = _by_stem(folder / "images"), _by_stem(folder / "labels")
        train, val = (_listed(folder, names, *files) for names in _PARTS)
        classes = _classes(folder, train)
    elif (folder / "images").is_dir() and (folder / "labels").is_dir():
        train, val = (_in_folders(folder, names) for names in _PARTS)
        classes = _classes(folder, train)
    else:
        raise DataError(f"data: {folder} is no set of images and label files; {LAYOUT}")
    splits = [
        MapSplit([image for image, _ in pairs], [label for _, label in pairs], classes)
        for pairs in (train, val)
    ]
    return Source(
        folder.name,
        classes.names,
        splits[0].part(train_images),
        splits[1].part(val_images),
        place=str(folder),
        fingerprint=fingerprint(classes.names, *(split.identity(folder) for split in splits)),
    )


def _listed(
    folder: Path, names: Iterable[str], images: dict[str, Path], labels: dict[str, Path]
) -> _Pairs:
    lists = [folder / "splits" / f"{name}.txt" for name in names]
    path = next((one for one in lists if one.is_file()), None)
    if path is None:
        raise DataError(f"data: {folder} has no {' or '.join(map(str, lists))}; {LAYOUT}")
    pairs = []
    for name in _lines(path):
        name = name.removesuffix(Path(name).suffix) if name.lower().endswith(EXTENSIONS) else name
        for where, files in (("images", images), ("labels", labels)):
            if name not in files:
                raise DataError(
                    f"data: {path} lists {name}, and {folder / where} has no file of that name; "
                    "add it, or remove the line"
                )
        pairs.append((images[name], labels[name]))
    if not pairs:
        raise DataError(f"data: {path} lists no images; add some")
    return pairs


def _lines(path: Path) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data: {path} is not UTF-8 text; write it as such") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _in_folders(folder: Path, names: Iterable[str]) -> _Pairs:
    part = next((name for name in names if (folder / "images" / name).is_dir()), None)
    if part is None:
        raise DataError(f"data: {folder / 'images'} has no folder {' or '.join(names)}; {LAYOUT}")
    images = _by_stem(folder / "images" / part)
    labels = _by_stem(folder / "labels" / part)
    return _paired(images, labels, folder / "images" / part, folder / "labels" / part)


def _paired(images: dict[str, Path], labels: dict[str, Path], where: Path, there: Path) -> _Pairs:
    for name in sorted(images.keys() ^ labels.keys()):
        have, lack = (images, there) if name in images else (labels, where)
        raise DataError(
            f"data: {have[name]} has no counterpart of that name in {lack}; add it, or remove it"
        )
    if not images:
        raise DataError(f"data: {where} holds no images ({', '.join(EXTENSIONS)}); add some")
    return [(images[name], labels[name]) for name in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Image files under a folder by their paths in it without their endings."""
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if not file.startswith(".") and file.lower().endswith(EXTENSIONS):
                path = Path(place) / file
                name = path.relative_to(folder).with_suffix("").as_posix()
                if name in found:
                    raise DataError(
                        f"data: {found[name]} and {path} have one name; remove one of them"
                    )
                found[name] = path
    return found


def _cityscapes(folder: Path, names: Iterable[str]) -> _Pairs:
    part = next((name for name in names if (folder / "leftImg8bit" / name).is_dir()), None)
    if part is None:
        raise DataError(f"data: {folder / 'leftImg8bit'} has no folder {' or '.join(names)}")
    where, there = folder / "leftImg8bit" / part, folder / "gtFine" / part
    images = _ending(_by_stem(where), "_leftImg8bit")
    files = _by_stem(there)
    labels = _ending(files, "_gtFine_labelTrainIds") or _ending(files, "_gtFine_labelIds")
    return _paired(images, labels, where, there)


def _ending(files: dict[str, Path], suffix: str) -> dict[str, Path]:
    return {n.removesuffix(suffix): p for n, p in files.items() if n.endswith(suffix)}


def _cityscapes_classes(pairs: _Pairs) -> Classes:
    names = tuple(_CITYSCAPES)
    if "labelTrainIds" in pairs[0][1].name:
        return Classes.of(names, {i: i for i in range(len(names))}, ())
    numbers = {number: i for i, number in enumerate(_CITYSCAPES.values())}
    return Classes.of(names, numbers, set(range(_CITYSCAPES_IDS)) - numbers.keys())


def _classes(folder: Path, train: _Pairs) -> Classes:
    path = folder / "classes.txt"
    if path.is_file():
        lines = _lines(path)
        if not lines or len(set(lines)) < len(lines):
            raise DataError(f"data: {path} must name each class once, one per line")
        if all(is_ignored(line) for line in lines):
            raise DataError(f"data: {path} names no class that is not to be ignored; add some")
        return Classes.listed(lines)
    largest, where = 0, train[0][1]
    for _, label in train:
        try:
            numbers = decode_numbers(label)
        except UnreadableImage:
            continue
        used = numbers[numbers != IGNORED]
        if (most := int(np.max(used, initial=0))) > largest:
            largest, where = most, label
    if largest >= MOST_CLASSES:
        raise DataError(
            f"data: {where} has the label {largest}, and without {path} the classes are the "
            f"numbers up to it, of which {MOST_CLASSES} can be told apart; add that file"
        )
    names = [str(number) for number in range(largest + 1)]
    return Classes.of(names, {i: i for i in range(len(names))}, ())
