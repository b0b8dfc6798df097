"""The runs that a study consists of: their configurations, names and folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsquant import runs
from rsquant.config import RunConfig, to_dict
from rsquant.errors import ConfigError
from rsquant.models.published import is_published
from rsquant.studies.study import Study, Table, Value, configured, substituted

# Settings that say where and how fast a run is made, not what comes out of it.
_ELSEWHERE = {
    "data": ("source", "workers", "fingerprint"),
    "train": ("device", "threads", "save_minutes", "teacher_fingerprint"),
}


@dataclass(frozen=True)
class PlannedRun:
    """One network to train.

    Attributes:
        value: of those its experiment is made for; None: it is made once.
        sizes: to measure it at, in pixels, the largest first.
        name: of its folder; the same for the same settings, in whichever study.
    """

    group: str
    experiment: str
    value: Value | None
    seed: int
    config: RunConfig
    sizes: tuple[int, ...]
    name: str

    @property
    def label(self) -> str:
        """What people read: group / experiment value, seed."""
        value = "" if self.value is None else f" {self.value}"
        group = f"{self.group} / " if self.group else ""
        return f"{group}{self.experiment}{value}, seed {self.seed}"


def planned_runs(
    study: Study, data: str | None = None, seeds: tuple[int, ...] | None = None
) -> list[PlannedRun]:
    """Every run of a study, all of one seed before those of the next.

    Args:
        data: the data set of all of them; None: the study's own.
        seeds: others than the study's.
    """
    found = []
    for seed in seeds or study.seeds:
        for group in study.groups:
            for experiment in study.experiments:
                for value in study.values(group, experiment):
                    found.append(_run(study, group, experiment, value, seed, data))
    return found


def _run(
    study: Study, group: str, experiment: str, value: Value | None, seed: int, data: str | None
) -> PlannedRun:
    settings = substituted(study.experiments[experiment].settings, value)
    config = configured(study.config, study.groups[group], settings, where=study.name)
    train = config.train
    init = None if train.init is None else weights_place(train.init)
    teacher = None if train.teacher is None else weights_place(train.teacher)
    config = replace(config, train=replace(train, seed=seed, init=init, teacher=teacher))
    source = data_place(config.data.source if data is None else data)
    config = replace(config, data=replace(config.data, source=source))
    words = [group, experiment, "" if value is None else str(value), f"seed{seed}"]
    slug = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words if word)
    sizes = {
        s for table in study.tables for s in _sizes(study, table, group, experiment, value, config)
    }
    name = f"{slug[:80]}-{fingerprint(config)}"
    return PlannedRun(
        group, experiment, value, seed, config, tuple(sorted(sizes, reverse=True)), name
    )


def trained_sizes(config: RunConfig) -> tuple[int, ...]:
    """The sizes that a configuration trains."""
    model = config.model
    return model.resolutions if model.individual is None else (model.individual,)


def size_of_row(table: Table, value: Value) -> int:
    """The size in pixels that a row is measured at."""
    return table.at if table.at is not None else int(value)


def _sizes(
    study: Study,
    table: Table,
    group: str,
    experiment: str,
    value: Value | None,
    config: RunConfig,
) -> list[int]:
    """The sizes at which a table wants one run."""
    found = []
    for column in table.columns:
        if column.of != experiment:
            continue
        for _, row in study.rows(table, group):
            size = size_of_row(table, row)
            if value is not None and value != (row if column.value is None else column.value):
                continue
            if column.untrained or size in trained_sizes(config):
                found.append(size)
    return found


def fingerprint(config: RunConfig) -> str:
    """Eight digits that tell configurations apart, but for where and how fast they run.

    Settings at their defaults do not count, so that a later version with more of them finds the
    runs of this one.
    """
    settings, usual = to_dict(config), to_dict(RunConfig())
    kept: dict[str, dict[str, Any]] = {
        section: {
            key: value
            for key, value in values.items()
            if value != usual[section][key] and key not in _ELSEWHERE.get(section, ())
        }
        for section, values in settings.items()
    }
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def data_place(data: str) -> str:
    """A data set's name, or its place found from any folder."""
    if "://" in data or (":" in data and not os.path.exists(data)) or data == "shapes":
        return data
    return os.path.abspath(os.path.expanduser(data))


def weights_place(source: str) -> str:
    """Published weights, or the place of a run, checkpoint or file, found from any folder.

    A name that is nothing here stays: the store's runs are called by their names.
    """
    if is_published(source):
        return source
    place = os.path.expanduser(source)
    run = runs.RUNS / place
    if (run / runs.CONFIG).is_file():
        return os.path.abspath(run)
    if os.path.exists(place) or os.path.splitext(place)[1] in (".safetensors", ".pth", ".pt"):
        return os.path.abspath(place)
    return source


def existing(run: PlannedRun, store: Path) -> Path:
    """The folder of a run in a store; where none has its settings, the one it will have."""
    ending = run.name.rpartition("-")[2]
    found = sorted(store.glob(f"*-{ending}"))
    return found[0] if found else store / run.name


def selected(runs: list[PlannedRun], only: tuple[str, ...]) -> list[PlannedRun]:
    """Those of some experiments. Raises ConfigError for a name that none has."""
    known = list(dict.fromkeys(run.experiment for run in runs))
    for name in only:
        if name not in known:
            from rsquant.text import did_you_mean

            raise ConfigError(
                f"only: unknown experiment '{name}'; {did_you_mean(name, known)}"
                f"known: {', '.join(known)}"
            )
    return [run for run in runs if not only or run.experiment in only]
