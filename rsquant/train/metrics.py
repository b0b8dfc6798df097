"""metrics.csv, a row per epoch, as far as it can be read: a report, which no run depends on."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsquant import runs

# 100,000 epochs of a run with five resolutions have 40 MB.
MAX_BYTES = 64 * 2**20
_NAME = re.compile(r"\w{1,100}", re.ASCII)


@dataclass(frozen=True)
class Metrics:
    """What could be read.

    Attributes:
        rows: one per epoch, ascending; text of a whole number for "epoch", else of a finite number
            or nothing.
        damage: what is wrong with the file, in a clause; None if nothing is.
    """

    rows: list[dict[str, str]]
    damage: str | None = None


def read_metrics(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv that can be read, as text; none if it has none."""
    return metrics_of(run).rows


def column(rows: Sequence[Mapping[str, str]], name: str) -> list[float]:
    """A figure of every epoch; NaN, which is not drawn, where a row lacks it."""
    return [float(row.get(name) or "nan") for row in rows]


def as_numbers(row: dict[str, str]) -> dict[str, int | float | None]:
    """A row's figures; None where one is missing."""
    return {
        name: int(text) if name == "epoch" else float(text) if text else None
        for name, text in row.items()
    }


def metrics_of(run: Path) -> Metrics:
    """A run's metrics.csv. A row that is not what training writes is left out and named."""
    path = run / runs.METRICS
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Metrics([])
    except OSError as error:
        return Metrics([], f"it cannot be read ({error.strerror})")
    if len(data) > MAX_BYTES:
        return Metrics([], f"it has more than {MAX_BYTES:,} bytes")
    lines = data.decode(errors="replace").splitlines()
    if not lines:
        return Metrics([], "it is empty")
    rows: list[dict[str, str]] = []
    damage: str | None = None
    names = _cells(lines[0])
    if (
        names is None
        or "epoch" not in names
        or len(set(names)) < len(names)
        or not all(_NAME.fullmatch(name) for name in names)
    ):
        return Metrics([], "its first line does not name columns")
    for number, line in enumerate(lines[1:], start=2):
        row = _row(names, line)
        if row is None or (rows and int(row["epoch"]) <= int(rows[-1]["epoch"])):
            damage = damage or f"line {number} is not the row of a later epoch"
        else:
            rows.append(row)
    return Metrics(rows, damage)


def _cells(line: str) -> list[str] | None:
    try:
        return next(csv.reader([line], strict=True), None)
    except csv.Error:
        return None


def _row(names: list[str], line: str) -> dict[str, str] | None:
    cells = _cells(line)
    if cells is None or len(cells) != len(names):
        return None
    row = dict(zip(names, cells, strict=True))
    if not re.fullmatch("[1-9][0-9]{0,5}", row["epoch"]):
        return None
    return row if all(not cell or _is_number(cell) for cell in cells) else None


def _is_number(text: str) -> bool:
    try:
        return len(text) <= 40 and math.isfinite(float(text))
    except ValueError:
        return False
