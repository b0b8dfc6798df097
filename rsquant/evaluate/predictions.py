"""What a network says of each image, as a file: CSV, or a JSON object in each line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rsquant.atomic import replacing
from rsquant.data.split import Split
from rsquant.errors import ConfigError
from rsquant.tasks import Task

SUFFIXES = (".csv", ".jsonl")


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless a file's name says which form it gets."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: predictions are written as .csv or .jsonl; name such a file")


class Predictions:
    """A row for each image and size, in the order of the split.

    Args:
        task: says what is told of an image.
        split: has the names of the images.
        classes: their names.
    """

    def __init__(self, task: Task, split: Split, classes: Sequence[str]) -> None:
        self._task, self._split, self._classes = task, split, classes
        self._rows: list[tuple[int, int, dict[str, Any]]] = []

    def add(self, size: int, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Note a batch at one size; see `rsquant.evaluate.accuracy.evaluate`."""
        told = self._task.predictions(outputs, labels, self._classes)
        for index, row in zip(indices.tolist(), told, strict=True):
            self._rows.append((index, size, row))

    def rows(self) -> list[dict[str, Any]]:
        """Of an image its rows follow one another, the largest size first."""
        return [
            {"image": self._split.name(index), "resolution": size, **row}
            for index, size, row in sorted(self._rows, key=lambda row: (row[0], -row[1]))
        ]


def write_predictions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, whole or not at all; in CSV lists are joined by "|".

    Raises:
        ConfigError: neither .csv nor .jsonl.
        RsquantError: the file cannot be written.
    """
    check_suffix(path)
    write = _write_csv if path.suffix == ".csv" else _write_lines
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write(file, rows)


def _write_csv(file: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: "|".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(cells)


def _write_lines(file: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
