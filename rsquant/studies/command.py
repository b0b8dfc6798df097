"""What `rsquant study` does: list the runs, or make them and write the tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsquant import config as configs
from rsquant import runs
from rsquant.atomic import check_takes_files
from rsquant.data.identity import changed
from rsquant.errors import ConfigError
from rsquant.machine import write_json
from rsquant.process_group import ALONE
from rsquant.studies.estimate import Rate, seconds
from rsquant.studies.outcome import Outcome, measured, outcome
from rsquant.studies.output import check_tables, write_tables
from rsquant.studies.planned import PlannedRun, data_place, existing, planned_runs, selected
from rsquant.studies.runner import Commands, Runner, StudyRunError
from rsquant.studies.study import Study
from rsquant.train.check import check
from rsquant.train.distributed import check_synced
from rsquant.train.estimate import duration
from rsquant.train.metrics import read_metrics
from rsquant.train.training import open_data


def run_study(
    study: Study,
    commands: Commands,
    folder: Path,
    data: str | None,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    jobs: int,
    echo: Callable[[str], None],
    json_file: Path | None = None,
) -> None:
    """Make the runs that are not yet, then write every table.

    Args:
        commands: that do the work of a run.
        folder: for runs, and tables in a folder of the study's name.
        data, seeds: see `planned_runs`; no seeds: the study's.
        only: experiments to train; none: all.
        jobs: runs at once; 0: none, only tables.
        json_file: for all tables together; None: none.
    Raises:
        StudyRunError: runs failed; the others are finished, and the tables written.
    """
    _check_seeds(seeds)
    if seeds:
        study = dataclasses.replace(study, seeds=seeds)
    check_takes_files(folder)
    planned = planned_runs(study, data)
    wanted = selected(planned, only)
    check_tables(study, folder / study.name)
    runner = Runner(
        folder, commands, max(1, jobs), echo, None if data is None else data_place(data)
    )
    failed: dict[str, str] = {}
    if jobs:
        _check(wanted, runner.store)
        left = [run for run in wanted if not measured(run, runner.store)]
        echo(f"{study.title}: {len(wanted)} runs, {len(left)} to make, in {runner.store}")
        failed = runner.run(left)
    cache: dict[str, Outcome | None] = {}

    def cached(run: PlannedRun) -> Outcome | None:
        if run.name not in cache:
            cache[run.name] = outcome(run, runner.store)
        return cache[run.name]

    text, missing = write_tables(study, planned, cached, folder / study.name)
    echo(text)
    for label in missing:
        echo(f"missing: {label}")
    echo(f"written {folder / study.name}")
    if json_file is not None:
        tables = [folder / study.name / f"{table.name}.json" for table in study.tables]
        write_json(json_file, [json.loads(table.read_text()) for table in tables])
        echo(f"written {json_file}")
    if failed:
        label, why = next(iter(failed.items()))
        raise StudyRunError(f"{len(failed)} of {len(wanted)} runs failed; {label}: {why}")


def _check_seeds(seeds: Sequence[int]) -> None:
    """Raise ConfigError for one given twice, whose runs would count twice in means and errors."""
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError(f"seed: {seed} is given twice; give it once")


def _check(planned: Sequence[PlannedRun], store: Path) -> None:
    """Raise RsquantError for what would stop any run, before the first one starts."""
    for run in planned:
        check(run.config)
        check_synced(run.config, ALONE)
    source = open_data(planned[0].config)
    for folder in dict.fromkeys(existing(run, store) for run in planned):
        if (folder / runs.CONFIG).is_file() and changed(
            configs.load_run(folder / runs.CONFIG), source
        ):
            raise ConfigError(
                f"{folder}: was trained on other images than {source.place}; choose another "
                "`folder`, or give its set with `data=DIR`"
            )


def list_runs(
    study: Study,
    folder: Path,
    data: str | None,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    jobs: int,
    echo: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Say of each run how far it is and about how long it takes; the sum last.

    Returns:
        A row per run: run, seed, state, epochs, done (epochs), seconds (that are left), sizes,
        folder.
    """
    _check_seeds(seeds)
    planned = selected(planned_runs(study, data, seeds or None), only)
    store = folder / "runs"
    rate = Rate(planned, store)
    echo(study.title)
    rows: list[dict[str, Any]] = []
    total = 0.0
    seen: set[str] = set()
    for run in planned:
        place = existing(run, store)
        epochs = run.config.train.epochs
        done = len(read_metrics(place))
        needed = seconds(run.config, rate)
        if run.name in seen:
            state, left = "as above", 0.0
        elif measured(run, store):
            state, left = "finished", 0.0
        elif (place / runs.CONFIG).is_file():
            state, left = f"epoch {done} of {epochs}", needed * (1 - done / epochs)
        else:
            state, left = "to do", needed
        seen.add(run.name)
        total += left
        sizes = ",".join(map(str, run.sizes))
        echo(f"{run.label:60} {state:16} {f'about {duration(left)}' if left else '':16} at {sizes}")
        rows.append(
            {
                "run": run.label,
                "seed": run.seed,
                "state": state,
                "epochs": epochs,
                "done": done,
                "seconds": left,
                "sizes": list(run.sizes),
                "folder": str(place),
            }
        )
    whole = f"about {duration(total / jobs)} in all" if total else "nothing is left"
    echo(f"{whole}, {jobs} at once ({rate.note})")
    return rows
