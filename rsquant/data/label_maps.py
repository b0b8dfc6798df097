"""Files that hold a class for each pixel, and which of their numbers mean which class."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOMEM
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rsquant.data.split import IGNORED
from rsquant.decoding import FORMATS, MAX_PIXELS, UnreadableImage, reason_of
from rsquant.errors import DataError
from rsquant.system import open_regular

# What a pixel has in our maps whose number has no meaning.
UNKNOWN = 254
MOST_CLASSES = 254
# Numbers in files; of 16 bits at most.
_NUMBERS = 1 << 16
# Grey and palette files of up to 8 bits, and grey ones of 16: Pillow's names.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
# What others have, but for colours.
_OTHERS = {"F": "fractions", "LA": "transparency", "La": "transparency", "PA": "transparency"}
# Pillow's names of grey levels in files, and what one is multiplied by.
_STRETCHED = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a set and the numbers that its files have for them.

    Attributes:
        names: of the classes, at most MOST_CLASSES.
        table: (65536,) uint8: of each number its class, IGNORED or UNKNOWN.
    """

    names: tuple[str, ...]
    table: NDArray[np.uint8]

    @classmethod
    def of(
        cls, names: Collection[str], numbers: Mapping[int, int], ignored: Collection[int]
    ) -> Classes:
        """Classes from the numbers of each, and those that are ignored; 255 always is, if free."""
        if not 1 <= len(names) <= MOST_CLASSES:
            raise DataError(
                f"data: 1 to {MOST_CLASSES} classes can be told apart, got {len(names)}"
            )
        table = np.full(_NUMBERS, UNKNOWN, np.uint8)
        table[[IGNORED, *ignored]] = IGNORED
        table[list(numbers)] = list(numbers.values())
        return cls(tuple(names), table)

    @classmethod
    def listed(cls, lines: Collection[str]) -> Classes:
        """Line n of a list is number n; a name that ends with "(ignore)" is no class."""
        skipped = [n for n, line in enumerate(lines) if is_ignored(line)]
        kept = [n for n in range(len(lines)) if n not in skipped]
        names = [list(lines)[n] for n in kept]
        return cls.of(names, {number: i for i, number in enumerate(kept)}, skipped)

    def apply(self, numbers: NDArray[np.int32], path: str) -> Tensor:
        """A file's map as classes: (H, W) uint8.

        Raises:
            DataError: it has a number without a meaning, naming the file and the number.
        """
        found = self.table[numbers]
        unknown = found == UNKNOWN
        if unknown.any():
            row, column = (int(v[0]) for v in np.nonzero(unknown))
            known = np.flatnonzero(self.table != UNKNOWN)
            raise DataError(
                f"data: {path} has the label {int(numbers[row, column])} at row {row}, column "
                f"{column}, which is none of the {len(self.names)} classes (numbers "
                f"{_ranges(known)}); correct the file, or list the class in classes.txt"
            )
        return torch.from_numpy(found)


def is_ignored(line: str) -> bool:
    """Whether a line of a list of classes is of pixels to be ignored."""
    return line.lower().endswith("(ignore)")


def decode_numbers(path: str | Path) -> NDArray[np.int32]:
    """The numbers in a label file: (H, W) int32, 0 to 65,535.

    Grey files give their levels, of 8 or 16 bits, palette files the entries of the palette, and not
    its colours.

    Raises:
        UnreadableImage: missing, truncated, no image, or too large. DataError: it has no numbers,
            but colours, transparency or fractions.
        MemoryError, OSError: as `images.decode`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
                _check(image, path)
                # Pillow stretches grey levels of 2 and 4 bits to 8.
                step = _STRETCHED.get(_raw_mode(image), 1)
                pixels = np.asarray(image) // step if step > 1 else np.asarray(image)
        except (UnreadableImage, DataError, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
            if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE, ENOMEM):
                raise
            raise UnreadableImage(f"labels: {reason_of(error, path)}") from error
    numbers: NDArray[np.int32] = pixels.astype(np.int32)
    if numbers.ndim != 2 or numbers.min(initial=0) < 0 or numbers.max(initial=0) >= _NUMBERS:
        raise UnreadableImage("labels: numbers that are not 0 to 65535")
    return numbers


def size_of(path: str | Path) -> tuple[int, int] | None:
    """(height, width) of an image file, from its first bytes; None where it cannot be read."""
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except Exception:  # whoever reads it says why
        return None


def _raw_mode(image: Image.Image) -> str:
    """How the file stores pixels, before they are read; "" where that does not show."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else ""


def _check(image: Image.Image, path: str | Path) -> None:
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise UnreadableImage(f"labels: more than {MAX_PIXELS // 10**6} megapixels")
    if image.mode not in _MODES:
        what = _OTHERS.get(image.mode, "colours")
        raise DataError(
            f"data: {path} has {what} (mode {image.mode}); a label file is grey or has a palette, "
            "with the number of a class at each pixel"
        )


def _ranges(numbers: NDArray[np.int64]) -> str:
    """0 to 10, 255."""
    starts = [int(numbers[0])]
    ends: list[int] = []
    for before, after in zip(numbers.tolist(), numbers[1:].tolist(), strict=False):
        if after != before + 1:
            ends.append(before)
            starts.append(after)
    ends.append(int(numbers[-1]))
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in pairs)
