"""`rsquant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import Sizes


@click.command(name="eval", short_help="Top-1, top-5, loss and MAdds at any list of sizes.")
@click.argument("run_or_checkpoint", required=False)
@click.option(
    "--resolutions",
    type=Sizes(),
    help="Sizes in pixels, trained or not; default: the trained ones.",
)
@click.option(
    "--checkpoint",
    "which",
    default="best",
    show_default=True,
    help="best or last, for a run folder.",
)
@click.option("--data", help="Another data source than the run's.")
@click.option("--val-images", type=int, help="Use this many validation images.")
@click.option("--batch", type=click.IntRange(1, 65_536), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0, 256), default=2, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Write the table here too."
)
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(
    run_or_checkpoint: str | None,
    resolutions: tuple[int, ...] | None,
    which: str,
    data: str | None,
    val_images: int | None,
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
            val_images=val_images,
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
