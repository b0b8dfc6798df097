"""Predicted classes of pixels as pictures: a palette file and an overlay of each image and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsquant.data.split import Split
from rsquant.errors import RsquantError
from rsquant.made import LIST, Made
from rsquant.overlay import save_mask, save_overlay
from rsquant.staging import staging
from rsquant.tasks import Task

_SUFFIXES = (".png", ".jpg")


class Masks:
    """Writes what a network says of each image of a split.

    Of image NAME at size R: NAME_R.png, the class of each pixel as a palette file, NAME_R.jpg, its
    colours over the image, and NAME_truth.png and .jpg, the same of the labels. Names of images in
    several folders get their number in front.

    Args:
        folder: where to; it is there already.
    """

    def __init__(self, task: Task, split: Split, folder: Path) -> None:
        self._task, self._split, self._folder = task, split, folder
        self._names = _names(split)
        self._labelled: set[int] = set()

    def add(self, size: int, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Write a batch: outputs and labels as the task has them, positions in the split."""
        told = self._task.masks(outputs, labels).cpu().numpy()
        for mask, truth, index in zip(told, labels.cpu().numpy(), indices.tolist(), strict=True):
            image = self._split.image(index).permute(1, 2, 0).numpy()
            if index not in self._labelled:
                self._labelled.add(index)
                self._write(f"{self._names[index]}_truth", truth, image)
            self._write(f"{self._names[index]}_{size}", mask, image)

    def _write(self, name: str, mask: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
        mask = mask.astype(np.uint8)
        save_mask(mask, self._folder / f"{name}.png")
        save_overlay(mask, image, self._folder / f"{name}.jpg")


def _names(split: Split) -> list[str]:
    names = [Path(split.name(i)).stem for i in range(len(split))]
    if len(set(names)) == len(names):
        return names
    return [f"{i:05}_{name}" for i, name in enumerate(names)]


def _check_names(folder: Path, split: Split) -> None:
    """Raise RsquantError for a file that a mask would replace and is none, before there are any."""
    made, names = Made(folder), set(_names(split))
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name, _, end = path.stem.rpartition("_")
        if name in names and (end == "truth" or end.isdecimal()) and path.suffix in _SUFFIXES:
            made.check(path, exist_ok=True)


def check_folder(folder: Path | None, exist_ok: bool) -> None:
    """Raise RsquantError if there are files that pictures could replace."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise RsquantError(f"{folder}: is a file; `save` must name a folder")
    if not exist_ok and folder.is_dir() and any(one.name != LIST for one in folder.iterdir()):
        raise RsquantError(
            f"{folder}: is not empty; `exist_ok=True` writes to it, and replaces what rsquant has "
            "written there"
        )


@contextmanager
def written_to(folder: Path | None, task: Task, split: Split) -> Iterator[Sequence[Masks]]:
    """Masks that get to a folder once all are written, or none where there is no folder.

    Raises:
        RsquantError: it has a file of such a name that is not one of these from before.
    """
    if folder is None:
        yield ()
        return
    _check_names(folder, split)
    with staging(folder, own=True) as temporary:
        yield (Masks(task, split, temporary),)
