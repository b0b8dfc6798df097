"""`rsquant predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import json_option

FORMATS = ("table", "jsonl", "csv")


@click.command(short_help="Labels of pictures, folders, videos or a camera.")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "--model",
    type=click.Path(path_type=str),
    help="A .rsq or .onnx file, a checkpoint or a run; default: the newest run.",
)
@click.option("--resolution", type=click.IntRange(1), help="Use this size for every picture.")
@click.option(
    "--budget-ms",
    type=float,
    help="Use the largest size that takes at most so many milliseconds, as the load changes.",
)
@click.option("--strict", is_flag=True, help="Fail where the smallest size takes longer than that.")
@click.option(
    "--overload",
    type=click.Choice(("degrade", "drop")),
    default="degrade",
    show_default=True,
    help="Of cameras with a budget, pictures that waited too long: smallest size, or left out.",
)
@click.option("--cascade", is_flag=True, help="Small sizes first, larger ones if unsure.")
@click.option(
    "--top",
    type=click.IntRange(1),
    help="Labels of each picture; default: 1, of segmentation all that pixels have.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How results are printed: a table, or a line each of JSON or CSV.",
)
@click.option("--save", type=click.Path(path_type=Path), help="A folder for marked pictures.")
@json_option("Also write all results to this file.")
@click.option("--exist-ok", is_flag=True, help="Replace pictures there, and the --json file.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: all processors.")
def command(
    inputs: tuple[str, ...],
    model: str | None,
    resolution: int | None,
    budget_ms: float | None,
    strict: bool,
    overload: Any,
    cascade: bool,
    top: int | None,
    form: str,
    save: Path | None,
    json_file: Path | None,
    exist_ok: bool,
    threads: int | None,
) -> int:
    """Say what is on pictures: files, folders, patterns, - (standard input), videos, camera:0.

    Of a segmentation network, which gives one prediction per pixel, it prints the classes and their
    share of the pixels; --save writes them as a palette file (.png) and over the picture (.jpg).

    Pictures that cannot be read are named on the error stream and left out; the exit status is
    then 3. Videos and cameras need the extra `video`.
    """
    from rsquant.atomic import check_free
    from rsquant.cli.unused import refuse_idle_exist_ok, refuse_unused
    from rsquant.machine import write_json
    from rsquant.serve import Predictor
    from rsquant.serve.inputs import expand
    from rsquant.serve.results import predictions, writer
    from rsquant.text import one_line

    check_free(json_file, exist_ok)
    found = expand(inputs)
    live = any(one.live for one in found)
    if live and json_file is not None:
        raise click.UsageError(
            "--json: is written at the end, which a camera has not; give --format jsonl, a line as "
            "it comes, and send it to a file"
        )
    refuse_unused(
        {
            "strict": "" if budget_ms is not None else "is of a --budget-ms",
            "overload": "" if live and budget_ms is not None else "is of a camera with --budget-ms",
        }
    )
    refuse_idle_exist_ok(save, json_file)
    predictor = Predictor(
        model,
        resolution=resolution,
        budget_ms=budget_ms,
        strict=strict,
        cascade=cascade,
        top=top,
        threads=threads,
    )
    if budget_ms is not None and predictor.budget is not None:
        first = predictor.budget.choose()
        if not first.fits:
            click.echo(f"budget: {first.reason}", err=True)
    unreadable = 0
    write = writer(form, click.echo)
    rows = []
    try:
        for one in predictions(predictor, found, overload, save, exist_ok):
            if one.error is not None:
                unreadable += 1
                click.echo(one_line(f"{one.name}: {one.error}"), err=True)
            else:
                write(one)
                if json_file is not None:
                    rows.append(one.row())
    finally:  # what there is, also after Ctrl-C or an error
        if json_file is not None:
            write_json(json_file, rows)
            click.echo(one_line(f"written {json_file}"), err=True)
    if unreadable:
        click.echo(f"{unreadable} could not be read", err=True)
    return 3 if unreadable else 0
