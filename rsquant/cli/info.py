"""`rsquant info`."""

from __future__ import annotations

from pathlib import Path

import click

from rsquant.cli.options import json_option


@click.command(short_help="Versions, devices, back ends, runs.")
@json_option("Write it here too.")
@click.option("--exist-ok", is_flag=True, help="Replace the --json file.")
def command(json_file: Path | None, exist_ok: bool) -> None:
    """Show versions, devices, which kernels are used and why, and where runs are."""
    from dataclasses import asdict

    from rsquant.atomic import check_free
    from rsquant.machine import write_json
    from rsquant.report.info import facts, lines
    from rsquant.text import one_line

    check_free(json_file, exist_ok)
    for line in lines():
        click.echo(one_line(line))
    if json_file is not None:
        write_json(json_file, [asdict(fact) for fact in facts()])
        click.echo(f"written {one_line(json_file)}")
