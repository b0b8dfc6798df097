"""`rsquant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import (
    DATA,
    DEVICE,
    Renamed,
    checkpoint_option,
    json_option,
    run_argument,
    sizes_option,
)


@click.command(name="eval", short_help="Top-1, top-5, loss and MAdds at any list of sizes.")
@run_argument
@sizes_option("Sizes in pixels, 96,80, trained or not; default: the trained ones.")
@checkpoint_option
@click.option("--data", type=DATA, help="Another data set than the run's.")
@click.option(
    "--images",
    "--val-images",
    cls=Renamed,
    type=int,
    help="Validation images; default: all.",
)
@click.option("--batch", type=click.IntRange(1, 65_536), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0, 256), default=2, show_default=True)
@click.option("--device", type=DEVICE, default="auto", show_default=True)
@json_option()
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(
    run_or_checkpoint: str | None,
    resolutions: tuple[int, ...] | None,
    which: str,
    data: str | None,
    images: int | None,
    batch: int,
    workers: int,
    device: str,
    json_file: Path | None,
    exist_ok: bool,
) -> None:
    """Evaluate a run folder, a run's name or a checkpoint; default: the newest run.

    Sizes that were not trained use BatchNorms interpolated between their neighbours.
    """
    from rich.table import Table

    from rsquant import runs
    from rsquant.atomic import check_free
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.machine import write_json

    check_free(json_file, exist_ok)
    found = runs.resolve(run_or_checkpoint, which)
    progress = ImageProgress(console())
    progress.echo(f"checkpoint {found}")

    from rsquant.evaluate.report import evaluate_checkpoint

    with progress.shown():
        progress.start("evaluate", 0, 0, 0, 0)
        report = evaluate_checkpoint(
            found,
            resolutions,
            data=data,
            val_images=images,
            batch=batch,
            workers=workers,
            device=device,
            progress=progress,
        )
    headings = [figure.heading for figure in report.task.figures]
    table = Table("resolution", *headings, "MAdds", "images", "BatchNorms")
    for row in report.rows:
        table.add_row(*_cells(row, report.task.figures))
    progress.console.print(table)
    if json_file is not None:
        write_json(json_file, report.rows)
        progress.echo(f"written {json_file}")


def _cells(row: dict[str, Any], figures: tuple[Any, ...]) -> tuple[str, ...]:
    return (
        str(row["resolution"]),
        *(figure.show(row[figure.name]) for figure in figures),
        f"{row['madds'] / 1e6:.1f} M",
        str(row["samples"]),
        row["batchnorms"],
    )
