"""`rsquant bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import Numbers, Sizes


@click.command(name="bench", short_help="Latency per resolution against PyTorch and onnxruntime.")
@click.argument("run_or_checkpoint", required=False)
@click.option("--arch", help="Time a freshly initialised network of this architecture instead.")
@click.option("--wbits", type=int, help="Its bits of weights; default 2.")
@click.option("--abits", type=int, help="Its bits of activations; default 2.")
@click.option("--width", type=int, help="Channels of its first stage; default 64.")
@click.option("--resolutions", type=Sizes(), help="Sizes in pixels; default: the network's.")
@click.option("--threads", type=Numbers(), help="Numbers of threads: 1,2 by default.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--engines", help="Comma-separated: torch,ort_float32,ort_int8,packed,packed_low,ort_export. Default: all.")  # fmt: skip # noqa: E501
@click.option("--seconds", type=click.FloatRange(0), default=40.0, show_default=True, help="Time to spend on timing, after the files are made.")  # fmt: skip # noqa: E501
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table here too.")  # fmt: skip # noqa: E501
@click.option("--kernels", is_flag=True, help="Instead: GMAC/s of each convolution of ResNet-18 and -50 (or --arch) beside the machine's bound, one thread.")  # fmt: skip # noqa: E501
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(
    run_or_checkpoint: str | None, arch: str | None, wbits: int | None, abits: int | None,
    width: int | None, resolutions: tuple[int, ...] | None, threads: tuple[int, ...] | None,
    batch: int, engines: str | None, seconds: float, json_file: Path | None, kernels: bool,
    exist_ok: bool,
) -> None:  # fmt: skip
    """Time a run folder, a run's name or a checkpoint; default: the newest run.

    Without any run, a freshly initialised resnet18 2/2 is timed: latency does not depend on what
    was learned. All engines, sizes and threads are timed in one interleaved run.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from rsquant.atomic import check_free
    from rsquant.cli.console import console

    check_free(json_file, exist_ok)
    terminal = console()

    def echo(line: str) -> None:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=terminal, transient=True, disable=not terminal.is_terminal,
    )  # fmt: skip
    with bars:
        bar = bars.add_task("loading", total=1.0)

        def step(what: str, done: float) -> None:
            bars.update(bar, description=what, completed=done)

        if kernels:
            from rsquant.bench.kernels import ARCHITECTURES, bench_kernels
            from rsquant.config import PAPER_RESOLUTIONS

            archs = (arch,) if arch else ARCHITECTURES
            rows = bench_kernels(archs, resolutions or PAPER_RESOLUTIONS, step=step)
            terminal.print(_kernel_table(rows))
            _write(json_file, rows, echo)
            return
        from rsquant.bench.run import bench, choose_subject

        subject = choose_subject(run_or_checkpoint, arch, wbits, abits, resolutions, width)
        echo(subject.what)
        rows = bench(
            subject, resolutions, threads, batch, engines.split(",") if engines else None, seconds,
            step,
        )  # fmt: skip
    title = f"milliseconds per batch of {batch}, median (quartiles)"
    table = Table(
        "size", "threads", "engine", "median", "quartiles", "speed", "file", "memory", "load",
        "switch", title=title,
    )  # fmt: skip
    for row in sorted(rows, key=lambda r: (r["threads"], -r["resolution"])):
        table.add_row(*_cells(row))
    terminal.print(table)
    echo("speed: against ort_float32 at the same size and threads   memory: peak of a process")
    echo("load: milliseconds until the first call   switch: more milliseconds after another size")
    _write(json_file, rows, echo)


def _write(json_file: Path | None, rows: list[dict[str, Any]], echo: Callable[[str], None]) -> None:
    from rsquant.machine import write_json

    if json_file is not None:
        write_json(json_file, rows)
        echo(f"written {json_file}")


def _kernel_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    title = "GMAC/s of each convolution, fastest round (median), and the bound of its arithmetic"
    table = Table(
        "network", "size", "layer", "form", "map", "kernel", "GMAC/s", "bound", "share", title=title
    )
    for row in rows:
        form = f"{row['kernel']} s{row['stride']} {row['in_channels']}->{row['out_channels']}"
        table.add_row(
            row["arch"], str(row["resolution"]), row["layer"], form, str(row["output"]),
            row["algorithm"], f"{row['gmacs']:.0f} ({row['median_gmacs']:.0f})",
            f"{row['bound_gmacs']:.0f}", f"{row['share_of_bound']:.0%}",
        )  # fmt: skip
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def megabytes(value: int | None) -> str:
        return "-" if value is None else f"{value / 1e6:.1f} MB"

    return (
        str(row["resolution"]), str(row["threads"]), row["engine"], f"{row['median_ms']:.2f}",
        f"{row['q1_ms']:.2f}-{row['q3_ms']:.2f}",
        "-" if row["speedup"] is None else f"{row['speedup']:.2f}x",
        megabytes(row["file_bytes"]), megabytes(row["peak_rss_bytes"]),
        *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("load_ms", "switch_ms")),
    )  # fmt: skip
