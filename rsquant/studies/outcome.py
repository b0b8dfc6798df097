"""What the runs of a study have given so far, read from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsquant import runs
from rsquant.errors import ConfigError
from rsquant.studies.planned import PlannedRun, existing

EVALUATION = "study.json"
# A row per size has a confusion matrix: 8 MB with 1,000 classes.
_MAX_BYTES = 2**30
# Of no use in tables, and large.
_LEFT_OUT = ("confusion", "by_class")


@dataclass(frozen=True)
class Outcome:
    """What one run gave.

    Attributes:
        rows: by size in pixels, as `rsquant eval` writes them; of several widths and bits the
            costliest's.
        folder: of the run.
        settings: all rows of several widths or bits, in the order measured, costliest first.
    """

    rows: Mapping[int, Mapping[str, Any]]
    folder: Path
    settings: Sequence[Mapping[str, Any]] = field(default=())

    def row(
        self, size: int, width: float | None = None, bits: str | None = None
    ) -> Mapping[str, Any] | None:
        """At a size, and at a width and bits of several; None where it was not measured.

        Args:
            width, bits: None: the costliest.
        """
        if width is None and bits is None:
            return self.rows.get(size)
        wanted = {"resolution": size, "width": width, "bits": bits}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        fits = (row for row in self.settings if wanted.items() <= row.items())
        return next(fits, None)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        error: its standard error, s / sqrt(n); None for one seed.
    """

    value: float
    error: float | None
    count: int


def mean(values: list[float]) -> Mean | None:
    """The mean of the seeds that there are; None without any."""
    if not values:
        return None
    middle = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(middle, None, 1)
    variance = math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1)
    return Mean(middle, math.sqrt(variance / len(values)), len(values))


def outcome(run: PlannedRun, store: Path) -> Outcome | None:
    """What a run gave; None where it is not finished and measured."""
    folder = existing(run, store)
    path = folder / EVALUATION
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        rows: dict[int, dict[str, Any]] = {}
        settings: list[dict[str, Any]] = []
        for row in raw["rows"]:  # of several settings the costliest, which comes first
            kept = {name: value for name, value in row.items() if name not in _LEFT_OUT}
            rows.setdefault(int(row["resolution"]), kept)
            if "width" in row or "bits" in row:
                settings.append(kept)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is damaged; remove it, and it is measured again") from error
    return Outcome(rows, folder, settings)


def parameters(folder: Path) -> int:
    """Learned numbers of a run's network: weights, gammas and betas; no statistics and no bases."""
    from rsquant.models.checkpoint import load

    return sum(p.numel() for p in load(folder / runs.LAST).parameters())


def measured(run: PlannedRun, store: Path) -> bool:
    """Whether a run is finished and measured at every size that is wanted."""
    found = outcome(run, store)
    return found is not None and all(size in found.rows for size in run.sizes)
