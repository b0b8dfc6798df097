"""The `rsquant` command, and `python -m rsquant`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Where what it is made of is missing, say so in a line."""
    try:
        from rsquant.cli import main as command
    except ImportError as error:
        from rsquant.system import refusal

        line = refusal(error)
        if line is None:
            raise
        if "--debug" in (sys.argv[1:] if arguments is None else arguments):
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    command(arguments)


if __name__ == "__main__":
    main()
