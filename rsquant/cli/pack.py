"""`rsquant pack`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from rsquant import choices
from rsquant.cli.options import (
    DATA,
    checkpoint_option,
    json_option,
    run_argument,
    setting_cells,
    setting_columns,
)


@click.command(name="pack", short_help="One file for the numpy-only runtime, all resolutions.")
@run_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; default: NETWORK.rsq beside the checkpoint.",
)
@checkpoint_option
@click.option(
    "--grid",
    type=click.Choice(choices.PACKED_GRIDS),
    help="Grid for the levels of a network trained without one; default: coarse.",
)
@click.option("--exist-ok", is_flag=True, help="Replace existing files.")
@click.option("--data", type=DATA, help="Another data set to measure on than the run's.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Validation images to measure on.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of the packed network; default: all processors.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Measure which kernels are fastest on this machine, for later runs.",
)
@json_option()
def command(
    run_or_checkpoint: str | None,
    out: Path | None,
    which: str,
    grid: str | None,
    exist_ok: bool,
    data: str | None,
    count: int,
    threads: int | None,
    tune: bool,
    json_file: Path | None,
) -> None:
    """Pack a run folder, a run's name or a checkpoint; default: the newest run.

    Afterwards images are run through the file, through the network as trained, and through the
    network on the grid. The file computes the latter, up to rounding; the table says how often it
    has the same top-1 prediction as each of the two. The file of an integer network computes the
    network's very logits; the table counts the images with equal ones.
    """
    from rsquant import runs
    from rsquant.atomic import check_free
    from rsquant.cli.console import console, show
    from rsquant.machine import write_json

    check_free(json_file, exist_ok)
    found = runs.resolve(run_or_checkpoint, which)
    terminal = console()
    echo = partial(show, terminal)
    echo(f"checkpoint {found}")
    with terminal.status("loading") as status:
        from rsquant.packing.pack_checkpoint import pack_checkpoint

        outcome = pack_checkpoint(
            found,
            out=out,
            grid=grid,
            count=count,
            data=data,
            exist_ok=exist_ok,
            threads=threads,
            tune=tune,
            step=status.update,
            echo=echo,
        )
    _print(outcome, grid, terminal, echo)
    if json_file is not None:
        write_json(json_file, [{**_flat(outcome.result), **row} for row in outcome.rows])
        echo(f"written {json_file}")


def _print(outcome: Any, grid: str | None, terminal: Any, echo: Callable[[str], None]) -> None:
    """What is in the file, what the grid cost, and what images say of it."""
    from rich.table import Table

    result = outcome.result
    sizes = Table("in the file", "bytes")
    for what, size in (
        ("low-bit weights", result.weight_bytes),
        ("first and last layer", result.end_bytes),
        ("BatchNorms of all resolutions", result.table_bytes),
        (
            "plan, checksum",
            result.file_bytes - result.weight_bytes - result.end_bytes - result.table_bytes,
        ),
        ("all", result.file_bytes),
    ):
        sizes.add_row(what, f"{size:,}")
    terminal.print(sizes)
    # The levels of some quantizers are integers by themselves.
    if result.snapped and result.weights.error + result.activations.error > 0:
        echo(f"trained without a grid: snapped to the {grid or 'coarse'} grid")
    for what, cost in (("weights", result.weights), ("activations", result.activations)):
        echo(_cost(what, cost))
    if result.snapped and result.weights.merged and grid != "fine":
        echo("              --grid fine keeps levels apart, for slower kernels")
    table = Table(
        "resolution",
        *setting_columns(outcome.rows),
        f"{outcome.task.main.heading} trained",
        "on the grid",
        "packed",
        f"same {outcome.task.prediction_name} prediction as trained",
        "as on the grid",
        *(["equal logits"] if "equal_logits" in outcome.rows[0] else []),
    )
    for row in outcome.rows:
        first, *cells = _cells(row, outcome.task.main.name)
        table.add_row(first, *setting_cells(row), *cells)
    terminal.print(table)
    echo(f"written {result.path}")


def _cells(row: dict[str, Any], figure: str) -> tuple[str, ...]:
    values = (row[figure], row[f"grid_{figure}"], row[f"packed_{figure}"])
    return (
        str(row["resolution"]),
        *("-" if value is None else f"{value:.2f}" for value in values),
        f"{row['trained_agreement']:.1f} %",
        f"{row['grid_agreement']:.1f} %",
        *([f"{row['equal_logits']:.1f} %"] if "equal_logits" in row else []),
    )


def _cost(what: str, cost: Any) -> str:
    return (
        f"{cost.bits}-bit {what}: integer levels up to {cost.limit}, moved by {cost.error:.1%} "
        f"(root mean square); {cost.merged} of {cost.bases} bases have equal levels"
    )


def _flat(result: Any) -> dict[str, Any]:
    """A result without nesting: weight_bits, weight_limit, .. for its GridCosts."""
    import dataclasses

    flat = dataclasses.asdict(result)
    for name in ("weights", "activations"):
        cost = flat.pop(name)
        flat |= {f"{name.removesuffix('s')}_{key}": value for key, value in cost.items()}
    return {**flat, "path": str(result.path)}
