"""`rsquant study`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from rsquant.cli.options import DATA, json_option


class Commands:
    """See `rsquant.studies.runner.Commands`."""

    def begin(self, config: str, name: str) -> list[str]:
        return ["train", "--config", config, "--name", name, "--exist-ok"]

    def resume(self, run: str, data: str | None) -> list[str]:
        return ["train", "--resume", run, *_data(data)]

    def measure(
        self, run: str, sizes: Sequence[int], json_file: str, device: str, data: str | None
    ) -> list[str]:
        at = ["--resolutions", ",".join(map(str, sizes))] if sizes else []
        given = ["--checkpoint", "last", "--device", device, "--json", json_file, "--exist-ok"]
        return ["eval", run, *given, *at, *_data(data)]


def _data(data: str | None) -> list[str]:
    return [] if data is None else ["--data", data]


@click.command(short_help="Run a list of experiments and fill the tables they are for.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=DATA, help="The data set of all runs; default: the study's own.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="Where runs and tables are; studies in one folder share runs with the same settings.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Runs at once, each with its share of the processors.",
)
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(0),
    multiple=True,
    help="In place of the study's; may repeat.",
)
@click.option("--only", multiple=True, metavar="EXPERIMENT", help="Train these alone; may repeat.")
@click.option("--list", "listing", is_flag=True, help="Show runs and the time they need, no more.")
@click.option("--tables", "tables_only", is_flag=True, help="Write the tables of what there is.")
@json_option("Also write all tables to this file, or the list of runs.")
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(
    file: Path,
    data: str | None,
    folder: Path,
    jobs: int,
    seeds: tuple[int, ...],
    only: tuple[str, ...],
    listing: bool,
    tables_only: bool,
    json_file: Path | None,
    exist_ok: bool,
) -> None:
    """Train, measure and tabulate the experiments of a YAML FILE (see docs/studies.md).

    Finished runs are kept and interrupted ones continued, also in the middle; so the same command
    again goes on. Tables are written to FOLDER/NAME/ as Markdown, CSV, JSON and PNG.
    """
    from rsquant.atomic import check_free
    from rsquant.cli.unused import refuse_idle_exist_ok, refuse_unused
    from rsquant.machine import write_json
    from rsquant.studies.command import list_runs, run_study
    from rsquant.studies.study import read_study

    nothing = "nothing is trained with --tables" if tables_only else ""
    refuse_unused(
        {
            "jobs": nothing,
            "only": nothing,
            "tables_only": "--list writes no tables" if listing else "",
        }
    )
    refuse_idle_exist_ok(json_file)
    check_free(json_file, exist_ok)
    study = read_study(file)
    if listing:
        rows = list_runs(study, folder, data, seeds, only, jobs, click.echo)
        if json_file is not None:
            write_json(json_file, rows)
            click.echo(f"written {json_file}")
        return
    wanted = 0 if tables_only else jobs
    run_study(study, Commands(), folder, data, seeds, only, wanted, click.echo, json_file)
