"""`rsquant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import (
    DATA,
    DEVICE,
    Bits,
    Renamed,
    Widths,
    checkpoint_option,
    json_option,
    run_argument,
    setting_cells,
    setting_columns,
    sizes_option,
)
from rsquant.cli.unused import refuse_idle_exist_ok


@click.command(name="eval", short_help="Top-1, top-5, loss and MAdds at any list of sizes.")
@run_argument
@sizes_option("Sizes in pixels, 96,80, trained or not; default: the trained ones.")
@click.option(
    "--bits", type=Bits(), help="Of several settings of bits those to measure, 2/2; default: all."
)
@click.option(
    "--widths", type=Widths(), help="Of several widths those to measure, 0.5; default: all."
)
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
@click.option("--by-class", is_flag=True, help="Also print the accuracy (IoU) of each class.")
@click.option(
    "--confusion",
    type=click.Path(path_type=Path),
    help="Draw the confusion matrix of every size: a .png, .svg or .pdf file.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Write each image's prediction: a .csv or .jsonl file.",
)
@click.option(
    "--cascade",
    is_flag=False,
    flag_value="top1",
    metavar="[SHARE]",
    help="Of a packed file: fit small sizes first on half of the images, measure on the other "
    "half, store it in the file. Without SHARE as accurate as the largest size; with it, at "
    "most this share of its multiply-adds: 0.5.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Draw accuracy against cost of a --cascade: a .png, .svg or .pdf file.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Of a packed file; default: all.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Folder for pictures of the class of each pixel, and of these over the images.",
)
@json_option()
@click.option("--exist-ok", is_flag=True, help="Replace these files.")
def command(
    run_or_checkpoint: str | None,
    resolutions: tuple[int, ...] | None,
    bits: tuple[str, ...] | None,
    widths: tuple[float, ...] | None,
    which: str,
    data: str | None,
    images: int | None,
    batch: int,
    workers: int,
    device: str,
    by_class: bool,
    confusion: Path | None,
    predictions: Path | None,
    cascade: str | None,
    plot: Path | None,
    threads: int | None,
    save: Path | None,
    json_file: Path | None,
    exist_ok: bool,
) -> None:
    """Evaluate a run folder, a run's name, a checkpoint or a packed file (.rsq).

    Default: the newest run. A packed file is run by the packed runtime; its data set is that of the
    run in whose folder it is, or --data.

    Sizes that were not trained use BatchNorms interpolated between their neighbours.
    """
    from rsquant import runs
    from rsquant.atomic import check_free
    from rsquant.cli.cascade import check_options, evaluate_cascade
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.machine import write_json

    packed = Path(run_or_checkpoint or "").suffix == ".rsq"
    check_options(cascade is not None, packed)
    refuse_idle_exist_ok(json_file, predictions, confusion, plot, save)
    for file in (json_file, predictions, confusion, plot):
        check_free(file, exist_ok)
    if cascade is not None:
        evaluate_cascade(run_or_checkpoint, cascade, data, images, plot, threads, json_file)
        return
    if predictions is not None:
        from rsquant.evaluate.predictions import check_suffix, write_predictions

        check_suffix(predictions)
    if confusion is not None:
        from rsquant.report.confusion import check_picture, draw_confusion

        check_picture(confusion)
    found = None if packed else runs.resolve(run_or_checkpoint, which)
    progress = ImageProgress(console())
    progress.echo(f"packed file {run_or_checkpoint}" if packed else f"checkpoint {found}")
    how: dict[str, Any] = {
        "data": data,
        "val_images": images,
        "batch": batch,
        "workers": workers,
        "device": device,
        "progress": progress,
        "predictions": predictions is not None,
        "bits": bits,
        "widths": widths,
        "save": save,
        "exist_ok": exist_ok,
        "details": [
            *(["by_class"] if by_class else []),
            *(["confusion"] if confusion is not None else []),
        ],
    }
    with progress.shown():
        progress.start("evaluate", 0, 0, 0, 0)
        if found is None:
            from rsquant.evaluate.packed_file import evaluate_packed

            path = Path(run_or_checkpoint or "")
            report = evaluate_packed(path, resolutions, threads=threads, **how)
        else:
            from rsquant.evaluate.report import evaluate_checkpoint

            report = evaluate_checkpoint(found, resolutions, **how)
    progress.console.print(_table(report))
    if json_file is not None:
        write_json(json_file, report.rows)
        progress.echo(f"written {json_file}")
    if predictions is not None:
        write_predictions(predictions, report.predictions or [])
        progress.echo(f"written {predictions}")
    if save is not None:
        progress.echo(f"written {save}")
    if confusion is not None:
        draw_confusion(confusion, report)
        progress.echo(f"written {confusion}")
    if by_class:  # last: what was asked for as files is written, whatever this table lacks
        progress.console.print(_classes(report))


def _table(report: Any) -> Any:
    """Every size at every width and bits, a row each."""
    from rich.table import Table

    headings = [figure.heading for figure in report.task.figures]
    several = setting_columns(report.rows)
    table = Table("resolution", *several, *headings, "MAdds", "images", "BatchNorms")
    for row in report.rows:
        table.add_row(*_cells(row, report.task.figures))
    return table


def _classes(report: Any) -> Any:
    """The figure of each class at every size, the worst class first."""
    from rich.table import Table

    from rsquant.errors import ConfigError

    figure, by_size = report.task.class_figure, [row.get("by_class") for row in report.rows]
    if figure is None or not all(by_size):
        raise ConfigError("by_class: this task, or so many classes, has none; leave it out")
    sizes = [" ".join(map(str, (row["resolution"], *setting_cells(row)))) for row in report.rows]
    title = f"{figure.heading} of each class by resolution"
    table = Table("class", report.task.samples_name, *sizes, title=title)

    def mean(row: Any) -> float:
        values = [one[figure.name] for one in row if one[figure.name] is not None]
        return sum(values) / len(values) if values else float("inf")

    for row in sorted(zip(*by_size, strict=True), key=mean):
        values = [one[figure.name] for one in row]
        cells = ("-" if value is None else figure.show(value) for value in values)
        table.add_row(row[0]["class"], str(row[0]["samples"]), *cells)
    return table


def _cells(row: dict[str, Any], figures: tuple[Any, ...]) -> tuple[str, ...]:
    return (
        str(row["resolution"]),
        *setting_cells(row),
        *(figure.show(row[figure.name]) for figure in figures),
        f"{row['madds'] / 1e6:.1f} M",
        str(row["samples"]),
        row["batchnorms"],
    )
