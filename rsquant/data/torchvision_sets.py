"""torchvision's classification datasets as splits."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from PIL import Image
from torch import Tensor

from rsquant.data.fingerprint import fingerprint
from rsquant.data.images import UnreadableImage, rgb_tensor
from rsquant.data.split import Source
from rsquant.errors import DataError

# One label per image is what is needed; these return attributes, pairs, folds or sequences.
NOT_CLASSIFICATION = {"CelebA", "LFWPairs", "LFWPeople", "MovingMNIST", "PhotoTour"}
LABELS = ("targets", "labels", "_labels")


def available() -> list[str]:
    """Names of torchvision datasets with a download and a train and a validation part."""
    names = []
    for name, kind in vars(torchvision.datasets).items():
        if inspect.isclass(kind) and name not in NOT_CLASSIFICATION:
            arguments = inspect.signature(kind.__init__).parameters
            if "download" in arguments and ("train" in arguments or "split" in arguments):
                names.append(name)
    return sorted(names)


def torchvision_source(name: str, root: Path) -> Source:
    """Open a torchvision dataset by its class name; it is downloaded under `root` if needed.

    Validation is the part called val, valid or test, whichever exists first.

    Raises:
        DataError: an unknown name, a failed download, a missing package.
    """
    names = available()
    if name not in names:
        same = [n for n in names if n.lower() == name.lower()]
        close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise DataError(
            f"data: unknown torchvision dataset '{name}'; {hint}valid: {', '.join(names)}"
        )
    kind = getattr(torchvision.datasets, name)
    if "train" in inspect.signature(kind.__init__).parameters:
        parts = [_open(name, kind, root, [{"train": flag}]) for flag in (True, False)]
    else:
        # torchvision's own default is the part to train on: train, trainval or train-standard.
        default = inspect.signature(kind.__init__).parameters["split"].default
        others = ("test",) if default == "trainval" else ("val", "valid", "test")
        parts = [
            _open(name, kind, root, [{"split": default}]),
            _open(name, kind, root, [{"split": other} for other in others]),
        ]
    train, val = (TorchvisionSplit(name, part) for part in parts)
    classes = _class_names(parts[0], train)
    return Source(
        name,
        classes,
        train,
        val,
        place=f"torchvision:{name}",
        fingerprint=fingerprint(classes, train.labels, val.labels),
    )


class TorchvisionSplit:
    """A torchvision dataset that yields (PIL image, label)."""

    def __init__(self, name: str, dataset: Any) -> None:
        self._name, self._dataset = name, dataset
        self._labels = _labels(dataset)

    @property
    def labels(self) -> np.ndarray:
        """(N,) integers: all that such a set says about its images before they are read."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        return int(self._labels[i])

    def name(self, i: int) -> str:
        return f"{self._name}[{i}]"

    def image(self, i: int, min_side: int | None = None) -> Tensor:
        try:
            image = self._dataset[i][0]
        except Exception as error:  # whatever Pillow or the dataset raises on a damaged file
            raise UnreadableImage(" ".join(str(error).split())) from error
        if not isinstance(image, Image.Image):
            raise UnreadableImage(f"{self._name} yields {type(image).__name__}, not an image")
        return rgb_tensor(image)


def _open(name: str, kind: Any, root: Path, choices: Sequence[dict[str, Any]]) -> Any:
    """The first of the argument choices that the dataset knows; from disk, else downloaded."""
    refused: Exception | None = None
    for arguments in choices:
        try:
            try:
                return kind(root, **arguments, download=False)
            except (RuntimeError, OSError):
                root.mkdir(parents=True, exist_ok=True)
                return kind(root, **arguments, download=True)
        except ValueError as error:
            if "Unknown value" not in str(error):
                raise DataError(f"data: torchvision:{name}: {_line(error)}") from error
            refused = error
        except ImportError as error:
            raise DataError(
                f"data: torchvision:{name} needs a package that is not installed: {_line(error)}"
            ) from error
        except (RuntimeError, OSError, EOFError) as error:
            raise DataError(
                f"data: torchvision:{name} could not be downloaded to {root}: {_line(error)}; "
                "check the connection, or put the files there yourself"
            ) from error
    raise DataError(f"data: torchvision:{name} has no validation part: {refused}")


def _labels(dataset: Any) -> np.ndarray:
    for key in LABELS:
        if getattr(dataset, key, None) is not None:
            return np.asarray(getattr(dataset, key), dtype=np.int64)
    if hasattr(dataset, "_samples"):
        return np.array([label for _, label in dataset._samples], dtype=np.int64)
    return np.array([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)


def _class_names(dataset: Any, split: TorchvisionSplit) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    if names:
        # Imagenette gives each class a tuple of synonyms.
        return tuple(n if isinstance(n, str) else str(n[0]) for n in names)
    return tuple(str(c) for c in range(max(split.label(i) for i in range(len(split))) + 1))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
