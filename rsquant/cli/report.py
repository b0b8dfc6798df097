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
@click.option(
    "--suggest-bits",
    metavar="BUDGET",
    help="Choose bits for each layer: 300KB or 1.5MB of weights, or a top-1 like 70%, see guide.",
)
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
    suggest_bits: str | None,
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
    if suggest_bits is not None:
        from rsquant.report.bit_budget import parse_budget

        parse_budget(suggest_bits)
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
            opened,
            data=data,
            images=images,
            workers=workers,
            device=device,
            progress=progress,
            suggest_bits=suggest_bits,
        )
    files = write_report(folder, report.title, report.about, report.sections, report.files)
    pictures = [file for file in files if file.suffix == ".png"]
    for file in files[: -len(pictures) or None]:
        progress.echo(f"written {file}")
    progress.echo(f"written {len(pictures)} pictures beside it")
    if json_file is not None:
        write_figures(json_file, report.sections)
        progress.echo(f"written {json_file}")
