"""`rsquant report`."""

from __future__ import annotations

from pathlib import Path

import click

from rsquant.cli.options import DATA, DEVICE, RunOrCheckpoint, checkpoint_option, json_option


@click.command(short_help="One page with pictures: accuracy, cost, sizes, layers, mistakes.")
@click.argument("run", nargs=-1, type=RunOrCheckpoint())
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write to; default: report/ in the run folder, or report/ for several runs.",
)
@checkpoint_option
@click.option("--data", type=DATA, help="Another data set than the first run's.")
@click.option("--images", type=click.IntRange(1), help="Validation images; default: all.")
@click.option("--workers", type=click.IntRange(0, 256), default=1, show_default=True)
@click.option("--device", type=DEVICE, default="auto", show_default=True)
@json_option("Also write all figures to this file.")
@click.option("--exist-ok", is_flag=True, help="Replace an earlier report.")
def command(
    run: tuple[str, ...],
    out: Path | None,
    which: str,
    data: str | None,
    images: int | None,
    workers: int,
    device: str,
    json_file: Path | None,
    exist_ok: bool,
) -> None:
    """Measure runs of the same classes and write one HTML page with pictures, and these as PNG.

    RUN is a run folder, a run's name or a checkpoint; default: the newest run.
    """
    from rsquant.atomic import check_free
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.report.opened import open_runs

    check_free(json_file, exist_ok)
    progress = ImageProgress(console())
    opened = open_runs(run or (None,), which)
    for one in opened:
        progress.echo(f"checkpoint {one.checkpoint}")

    from rsquant.report.compose import measure
    from rsquant.report.write import check_folder, default_folder, write_figures, write_report

    folder = out or default_folder(opened)
    check_folder(folder, exist_ok)
    with progress.shown():
        report = measure(
            opened, data=data, images=images, workers=workers, device=device, progress=progress
        )
    files = write_report(folder, report.title, report.about, report.sections)
    progress.echo(f"written {files[0]} and {len(files) - 1} pictures beside it")
    if json_file is not None:
        write_figures(json_file, report.sections)
        progress.echo(f"written {json_file}")
