"""`rsquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(name="export", short_help="ONNX files, one per resolution, checked.")
@click.argument("run_or_checkpoint", required=False)
@click.option("--resolution", "resolutions", type=int, multiple=True, help="Size in pixels; may be given several times.")  # fmt: skip # noqa: E501
@click.option("--all", "every", is_flag=True, help="All trained resolutions.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; default: export/ in the run folder.")  # fmt: skip # noqa: E501
@click.option("--checkpoint", "which", default="best", show_default=True, help="best or last, for a run folder.")  # fmt: skip # noqa: E501
@click.option("--interpolate", is_flag=True, help="Allow sizes that were not trained: BatchNorms between their neighbours'.")  # fmt: skip # noqa: E501
@click.option("--exist-ok", is_flag=True, help="Replace existing files.")
@click.option("--data", help="Another source of images to measure parity on than the run's.")
@click.option("--images", "count", type=click.IntRange(1), default=64, show_default=True, help="How many images to measure parity on.")  # fmt: skip # noqa: E501
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here too.")  # fmt: skip # noqa: E501
def command(
    run_or_checkpoint: str | None, resolutions: tuple[int, ...], every: bool, out: Path | None,
    which: str, interpolate: bool, exist_ok: bool, data: str | None, count: int,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Export a run folder, a run's name or a checkpoint; default: the newest run.

    Every file is run in onnxruntime and compared with the network before it gets its name.
    """
    if every == bool(resolutions):
        raise click.UsageError("name the sizes with --resolution 96 ..., or give --all (not both)")
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from rsquant import runs
    from rsquant.atomic import check_free
    from rsquant.cli.console import console
    from rsquant.machine import write_json

    check_free(json_file, exist_ok)
    found = runs.resolve(run_or_checkpoint, which)
    terminal = console()

    def echo(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    echo(f"checkpoint {found.path}")
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=terminal, transient=True, disable=not terminal.is_terminal,
    )  # fmt: skip
    with bars:
        bar = bars.add_task("loading", total=len(resolutions) + 1 if resolutions else None)
        steps = 0

        def step(what: str) -> None:
            nonlocal steps
            bars.update(bar, description=what, completed=steps)
            steps += 1

        from rsquant.export.run import export_checkpoint

        rows = export_checkpoint(
            found, resolutions, out=out, count=count, data=data, interpolate=interpolate,
            exist_ok=exist_ok, step=step, echo=echo,
        )  # fmt: skip
    table = Table("resolution", "size", "largest error", "layer by layer", "top-1 agreement", "parity")  # fmt: skip # noqa: E501
    for row in rows:
        table.add_row(*_cells(row))
    terminal.print(table)
    if any(row["max_rel_error"] > 1e-5 for row in rows):
        echo(
            "largest error: a value at a threshold may round to another level in onnxruntime, and "
            "moves the logits\nlayer by layer: relative error with equal levels, which is what "
            "has to be rounding (at most 1e-5)"
        )
    for row in rows:
        echo(f"written {row['file']}")
    if json_file is not None:
        write_json(json_file, rows)
        echo(f"written {json_file}")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["resolution"]), f"{row['file_bytes'] / 1e6:.2f} MB",
        f"{row['max_abs_error']:.1e}", f"{row['forced_error']:.1e}",
        f"{row['top1_agreement']:.1%}", "passed" if row["passed"] else "failed",
    )  # fmt: skip
