"""The `rsquant` command, and `python -m rsquant`."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Where what it is made of is missing, say so in a line."""
    try:
        from rsquant.cli import main as command
    except ImportError as error:
        given = sys.argv[1:] if arguments is None else arguments
        line = _refusal(error, given)
        if line is None:
            raise
        if "--debug" in given:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    command(arguments)


def _refusal(error: ImportError, arguments: list[str]) -> str | None:
    """What is missing for the command that the arguments name; None where that is not it."""
    from rsquant.packages import COMMANDS, absent_modules, missing
    from rsquant.system import refusal

    command = next((a for a in arguments if not a.startswith("-")), "")
    if absent := absent_modules(error):
        who = f"rsquant {command}" if command in COMMANDS else "rsquant"
        return str(missing(who, absent, COMMANDS.get(command, "train")))
    return refusal(error)


if __name__ == "__main__":
    main()
