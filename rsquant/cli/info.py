"""`rsquant info`."""

from __future__ import annotations

from pathlib import Path

import click

from rsquant.cli.options import RunOrCheckpoint, json_option
from rsquant.cli.unused import refuse_idle_exist_ok


@click.command(short_help="Versions, devices, back ends, runs; what is in a network or .rsq file.")
@click.argument("run_or_checkpoint", type=RunOrCheckpoint(), required=False)
@json_option("Also write it to this file.")
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(run_or_checkpoint: str | None, json_file: Path | None, exist_ok: bool) -> None:
    """Show versions, devices, which kernels are used and why, and where runs are.

    With RUN_OR_CHECKPOINT, show that network's layers instead: names (for --layer-bits), bits of
    weights and inputs, quantizers and sizes. With a packed file (.rsq), show its sizes,
    operations, quantizers and what takes its bytes; that needs no torch.
    """
    from dataclasses import asdict

    from rsquant.atomic import check_free
    from rsquant.machine import write_json
    from rsquant.report import info
    from rsquant.text import one_line

    refuse_idle_exist_ok(json_file)
    check_free(json_file, exist_ok)
    if run_or_checkpoint is not None and Path(run_or_checkpoint).suffix == ".rsq":
        from rsquant.packed.file import open_packed
        from rsquant.report import packed

        told = packed.report(open_packed(run_or_checkpoint))
        shown, rows = packed.lines(told), iter(told.rows())
    elif run_or_checkpoint is not None:
        from rsquant import runs
        from rsquant.models.checkpoint import load
        from rsquant.report import layers

        network = load(runs.resolve(run_or_checkpoint).path)
        shown, rows = layers.layer_lines(network), map(asdict, layers.layer_rows(network))
    else:
        shown, rows = info.lines(), map(asdict, info.facts())
    for line in shown:
        click.echo(one_line(line))
    if json_file is not None:
        write_json(json_file, list(rows))
        click.echo(f"written {one_line(json_file)}")
