"""`rsquant export`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from rsquant import choices
from rsquant.cli.options import (
    DATA,
    Bits,
    checkpoint_option,
    json_option,
    run_argument,
    setting_cells,
    setting_columns,
    sizes_option,
)
from rsquant.cli.unused import refuse_unused


@click.command(name="export", short_help="ONNX files, one per resolution or one for all, checked.")
@run_argument
@sizes_option("Sizes in pixels: 96,80.")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="All trained resolutions, widths and bits, with one shared weight file (none with form "
    "float).",
)
@click.option(
    "--single-file",
    is_flag=True,
    help="One file for images of any size, which picks its BatchNorms.",
)
@click.option(
    "--form",
    type=click.Choice(choices.FORMS),
    default="auto",
    show_default=True,
    help=(
        "auto: int8 where weights and activations are low-bit (codebook with --single-file), "
        "codebook where only weights are, else float."
    ),
)
@click.option(
    "--compat", is_flag=True, help="For onnxruntime 1.20.1; otherwise files with codes need 1.24.1."
)
@click.option(
    "--preprocess",
    is_flag=True,
    help=(
        "Take upright uint8 images (N, H, W, 3) of any size; crop, resize and normalise in the "
        "file. A single file only normalises."
    ),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write to; default: export/ in the run folder.",
)
@checkpoint_option
@click.option(
    "--interpolate",
    is_flag=True,
    help="Allow sizes that were not trained, with interpolated BatchNorms.",
)
@click.option("--exist-ok", is_flag=True, help="Replace existing files.")
@click.option("--data", type=DATA, help="Another data set to measure and calibrate on.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Validation images to measure parity on.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(1),
    help="Training images from which the int8 form takes its ranges; default: 64.",
)
@click.option(
    "--bits",
    type=Bits(),
    help="Of several settings of bits the one to write, 2/2; default: the most, with --all all.",
)
@click.option(
    "--width",
    type=float,
    help="Of several widths the one to write, 0.5; default: all channels, with --all all widths.",
)
@json_option()
def command(
    run_or_checkpoint: str | None,
    resolutions: tuple[int, ...] | None,
    every: bool,
    single_file: bool,
    form: str,
    compat: bool,
    preprocess: bool,
    out: Path | None,
    which: str,
    interpolate: bool,
    exist_ok: bool,
    data: str | None,
    count: int,
    calibrate: int | None,
    json_file: Path | None,
    bits: tuple[str, ...] | None,
    width: float | None,
) -> None:
    """Export a run folder, a run's name or a checkpoint; default: the newest run.

    Every file is run in onnxruntime, with default options, and compared with the network before it
    gets its name.
    """
    if bool(resolutions) + every + single_file != 1:
        raise click.UsageError(
            "name the sizes with --resolutions 96,80, or give --all or --single-file (one of these)"
        )
    trained = "all trained sizes are written" if every or single_file else ""
    refuse_unused({"interpolate": trained})
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rsquant import runs
    from rsquant.atomic import check_free
    from rsquant.cli.console import console, show
    from rsquant.machine import write_json

    if bits is not None and len(bits) > 1:
        raise click.UsageError("--bits: one setting at a time, 2/2")
    check_free(json_file, exist_ok)
    found = runs.resolve(run_or_checkpoint, which)
    terminal = console()
    echo = partial(show, terminal)
    echo(f"checkpoint {found}")
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    with bars:
        bar = bars.add_task("loading", total=None)
        steps = 0

        def step(what: str) -> None:
            nonlocal steps
            bars.update(bar, description=what, completed=steps)
            steps += 1

        from rsquant.export.export_checkpoint import export_checkpoint
        from rsquant.export.onnx import Options
        from rsquant.settings import checked_bits

        pair = None if bits is None else checked_bits(bits)[0]
        outcome = export_checkpoint(
            found,
            resolutions or (),
            options=Options(form, compat, preprocess, interpolate, exist_ok, pair, width),
            single_file=single_file,
            out=out,
            count=count,
            calibrate=calibrate,
            data=data,
            plan=lambda total: bars.update(bar, total=total),
            step=step,
            echo=echo,
        )
    for line in _print(outcome, compat, terminal):
        echo(line)
    if json_file is not None:
        write_json(json_file, outcome.rows)
        echo(f"written {json_file}")


def _print(outcome: Any, compat: bool, terminal: Any) -> Iterator[str]:
    """Print the table; the lines below it."""
    from rich.table import Table

    rows = outcome.rows
    table = Table(
        "resolution",
        *setting_columns(rows),
        "own size",
        "float32",
        "largest error",
        "layer by layer",
        f"{outcome.task.prediction_name} agreement",
        outcome.task.main.heading,
    )
    for row in rows:
        size, *cells = _cells(row, outcome.task.main.name)
        table.add_row(size, *setting_cells(row), *cells)
    terminal.print(table)
    form = rows[0]["form"]
    if any(row["max_rel_error"] > 1e-5 for row in rows):
        yield from _EXPLAIN["int8" if form == "int8" else "exact"]
    for path in outcome.files:
        yield f"written {path}  ({path.stat().st_size / 1e6:.2f} MB)"
    equal = "equal to the network's evaluation, in every code and logit"
    parity = equal if rows[0]["integer"] else "parity passed"
    needs = "1.17" if form == "float" else "1.20.1" if compat else "1.24.1"
    yield (
        f"form {form}: {outcome.bytes / 1e6:.2f} MB in all, {outcome.float_bytes / 1e6:.2f} MB as "
        f"float32 files; {parity}; {outcome.seconds:.0f} s"
    )
    yield f"needs onnxruntime {needs} or later, with default options"


_EXPLAIN = {
    "int8": (
        "largest error: of a logit, relative to the largest, each on its own levels: rounding to "
        "8 bits, and values that it moves across thresholds",
        "layer by layer: error beyond half a step, on equal bytes, relative to the largest value: "
        "float32 rounding, at most 1e-5",
    ),
    "exact": (
        "largest error: of a logit, relative to the largest: a value at a threshold may round to "
        "another level in onnxruntime",
        "layer by layer: error with equal levels, relative to the largest value: "
        "float32 rounding, at most 1e-5",
    ),
}


def _cells(row: dict[str, Any], figure: str) -> tuple[str, ...]:
    right = "-"
    if row[figure] is not None:
        right = f"{row[f'file_{figure}']:.1f} (network {row[figure]:.1f})"
    return (
        str(row["resolution"]),
        f"{row['file_bytes'] / 1e6:.2f} MB",
        f"{row['float_bytes'] / 1e6:.2f} MB",
        f"{row['max_rel_error']:.1e}",
        f"{row['forced_error']:.1e}",
        f"{row['top1_agreement']:.1%}",
        right,
    )
