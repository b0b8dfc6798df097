"""The terminal, or the file that stands for it."""

from __future__ import annotations

import sys

from rich.console import Console

# Wide enough for every table: a log file has no width of its own.
LOG_WIDTH = 110


def console() -> Console:
    """A console as wide as the terminal, or LOG_WIDTH where there is none."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
