"""`rsquant info`."""

from __future__ import annotations

import click


@click.command(short_help="Versions, devices, back ends, runs.")
def command() -> None:
    """Show versions, devices, which kernels are used and why, and where runs are."""
    from rsquant.report.info import lines
    from rsquant.text import one_line

    for line in lines():
        click.echo(one_line(line))
