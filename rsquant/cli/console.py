"""The terminal, or the file that stands for it. All text is inert: no markup, no escape codes."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from rsquant.cli.flags import as_flags
from rsquant.text import one_line

# Wide enough for every table: a log file has no width of its own.
LOG_WIDTH = 110


def console(quiet: bool = False) -> Console:
    """A console as wide as the terminal, or LOG_WIDTH where there is none.

    Args:
        quiet: it shows nothing.
    """
    width = None if sys.stdout.isatty() else LOG_WIDTH
    # "[red]" and ":smile:" in a name are its letters, in tables too.
    return Console(width=width, markup=False, emoji=False, highlight=False, quiet=quiet)


def show(terminal: Console, line: str) -> None:
    """A line of the library in the words of the command that runs, not wrapped.

    What names and files brought in is made printable.
    """
    context = click.get_current_context(silent=True)
    line = as_flags(line, None if context is None else context.command)
    terminal.print(one_line(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
