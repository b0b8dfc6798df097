"""NYUDv2 with 40 classes, from the file that its authors publish.

A folder holds nyu_depth_v2_labeled.mat (HDF5: images (N, 3, W, H) uint8 and labels (N, W, H)
uint16, columns first), splits.mat (trainNdxs and testNdxs, from 1) and classMapping40.mat
(mapClass: of label n, from 1, one of 40 classes, from 1; className: their names). Label 0 is
unknown. The depth maps are not used.

Source: Silberman et al., ECCV 2012; 40 classes: Gupta et al., CVPR 2013, as RefineNet and RS-Nets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsquant.data.checked_maps import CheckedMaps
from rsquant.data.fingerprint import fingerprint
from rsquant.data.images import UnreadableImage
from rsquant.data.label_maps import Classes
from rsquant.data.split import Source
from rsquant.errors import DataError
from rsquant.packages import require

LABELLED = "nyu_depth_v2_labeled.mat"
SPLITS, MAPPING = "splits.mat", "classMapping40.mat"
_NUMBERS = 1 << 16


class NyuSplit(CheckedMaps):
    """Some images of the file, and their maps of classes, (H, W) uint8.

    Args:
        path: the file; every process that reads it opens it for itself.
        indices: (N,) positions in it, from 0.
        size: (height, width) of all images.
    """

    def __init__(
        self,
        path: Path,
        indices: NDArray[np.int64],
        classes: Classes,
        size: tuple[int, int],
    ) -> None:
        self._path, self._indices, self.classes, self._size = path, indices, classes, size
        self._file: Any = None
        self._process = -1

    def __len__(self) -> int:
        return len(self._indices)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": -1}

    def name(self, i: int) -> str:
        return f"{self._path}[{int(self._indices[i]) + 1}]"

    def label_name(self, i: int) -> str:
        return self.name(i)

    def size(self, i: int) -> tuple[int, int]:
        return self._size

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        pixels = self._read("images", i).transpose(0, 2, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(1, 2, 0))).permute(2, 0, 1)

    def label(self, i: int) -> Tensor:
        numbers = self._read("labels", i).T.astype(np.int32)
        return self.classes.apply(numbers, self.name(i))

    def part(self, limit: int | None) -> NyuSplit:
        """At most `limit` images, evenly spaced."""
        if limit is None or limit >= len(self):
            return self
        chosen = (np.arange(limit) * len(self)) // limit
        return NyuSplit(self._path, self._indices[chosen], self.classes, self._size)

    def identity(self) -> NDArray[np.int64]:
        return self._indices

    def _read(self, what: str, i: int) -> NDArray[Any]:
        import h5py

        # A file that was open before a fork shares its place with the parent's.
        try:
            if self._process != os.getpid():
                self._file, self._process = h5py.File(self._path, "r"), os.getpid()
            values: NDArray[Any] = self._file[what][int(self._indices[i])]
        except (OSError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UnreadableImage(f"{what}: {reason:.150}") from error
        return values


def is_nyu(folder: Path) -> bool:
    """Whether a folder holds the file."""
    return (folder / LABELLED).is_file()


def open_nyu(folder: Path, train_images: int | None, val_images: int | None) -> Source:
    """Open the file: 795 images to train on and 654 to validate on, as published.

    Raises:
        DataError: a file is missing, damaged or does not fit the others.
        MissingPackage: h5py or scipy is not installed.
    """
    require("NYUDv2", "nyu", "h5py", "scipy")
    import h5py

    for name in (SPLITS, MAPPING):
        if not (folder / name).is_file():
            raise DataError(
                f"data: {folder} has {LABELLED} but no {name}; put the published file there"
            )
    splits, mapping = (_variables(folder / name) for name in (SPLITS, MAPPING))
    names = [str(np.ravel(one)[0]) for one in np.ravel(_of(mapping, "className", MAPPING))]
    targets = np.ravel(_of(mapping, "mapClass", MAPPING)).astype(np.int64)
    if not names or targets.min(initial=1) < 1 or targets.max(initial=1) > len(names):
        raise DataError(
            f"data: {folder / MAPPING}: mapClass must have numbers of 1 to {len(names)} classes"
        )
    if len(targets) >= _NUMBERS:
        raise DataError(f"data: {folder / MAPPING}: maps {len(targets)} labels; 65535 at most")
    classes = Classes.of(names, {i + 1: int(c) - 1 for i, c in enumerate(targets)}, (0,))
    path = folder / LABELLED
    try:
        with h5py.File(path, "r") as file:
            images, labels = file["images"].shape, file["labels"].shape
    except (OSError, KeyError, AttributeError) as error:
        raise DataError(f"data: {path} is damaged, or another file: {error}") from error
    if len(images) != 4 or images[1] != 3 or labels != (images[0], *images[2:]):
        raise DataError(f"data: {path} has images {images} and labels {labels}, which do not fit")
    parts = []
    for name in ("trainNdxs", "testNdxs"):
        indices = np.ravel(_of(splits, name, SPLITS)).astype(np.int64) - 1
        if not len(indices) or indices.min() < 0 or indices.max() >= images[0]:
            raise DataError(f"data: {folder / SPLITS}: {name} must name images of 1 to {images[0]}")
        parts.append(NyuSplit(path, indices, classes, (images[3], images[2])))
    train, val = parts
    return Source(
        "NYUDv2",
        classes.names,
        train.part(train_images),
        val.part(val_images),
        place=str(folder),
        fingerprint=fingerprint(names, train.identity(), val.identity()),
    )


def _variables(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file of version 5."""
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path)
    except Exception as error:  # scipy raises many kinds on damaged files
        raise DataError(f"data: {path} is no MATLAB file of version 5: {error}") from error
    return found


def _of(variables: dict[str, Any], name: str, file: str) -> Sequence[Any]:
    if name not in variables:
        raise DataError(f"data: {file} has no variable {name}; put the published file there")
    value: Sequence[Any] = variables[name]
    return value
