"""The `rsquant` command: a group whose subcommands are imported when used."""

from __future__ import annotations

import importlib
import sys
import traceback

import click

from rsquant import packages
from rsquant.cli.flags import as_flags
from rsquant.errors import RsquantError
from rsquant.machine import wait_briefly
from rsquant.system import refusal
from rsquant.text import did_you_mean, one_line
from rsquant.version import __version__

# Each is a module here with a click command named `command`.
COMMANDS = tuple(packages.COMMANDS)
# Those whose names mean something in Python.
_MODULES = {"eval": "evaluate", "import": "import_"}


_EPILOG = """\b
Any command takes --debug: show the traceback of an error.

\b
The Tab key completes commands, options and names after this line in ~/.bashrc
(zsh: zsh_source; fish: _RSQUANT_COMPLETE=fish_source rsquant | source):
eval "$(_RSQUANT_COMPLETE=bash_source rsquant)"
"""


class _LazyGroup(click.Group):
    """Imports a subcommand's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if name != "bench":  # which measures torch as it is
            wait_briefly()
        module = importlib.import_module(f"rsquant.cli.{_MODULES.get(name, name)}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            ctx.fail(f"unknown command '{args[0]}'; {hint}known: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="rsquant")
@click.pass_context
def group(context: click.Context) -> None:
    """Train one low-bit CNN that runs at several input resolutions, and ship it.

    \b
    rsquant train --wbits 2 --abits 2 --arch resnet50
    rsquant export --resolution 96
    rsquant bench
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit status 0, 2 for wrong input, 130 for Ctrl-C, 1 for a fault."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result = group.main(
            [a for a in given if a != "--debug"], prog_name="rsquant", standalone_mode=False
        )
        # click returns an exit status it was asked for (--help, --version), commands return None.
        sys.exit(result if isinstance(result, int) else 0)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        line, status = _explained(error, given)
        # One line on the error stream, whatever the names in it hold.
        click.echo(f"error: {one_line(line)}", err=True)
        sys.exit(status)


def _explained(error: Exception, given: list[str]) -> tuple[str, int]:
    """What went wrong, in the words of the command that was given, and the exit status."""
    name = next((a for a in given if not a.startswith("-")), "")
    name = name if name in COMMANDS else ""
    if isinstance(error, click.ClickException):
        where = getattr(getattr(error, "ctx", None), "command_path", "rsquant")
        return f"{' '.join(error.format_message().split())} (see {where} --help)", 2
    if isinstance(error, ImportError) and (absent := packages.absent_modules(error)):
        extra = packages.COMMANDS.get(name, "train")
        return str(packages.missing(f"rsquant {name}".rstrip(), absent, extra)), 2
    line = str(error) if isinstance(error, RsquantError) else refusal(error)
    if line is not None:
        command = group.get_command(click.Context(group), name) if name else None
        return as_flags(line, command), 2
    line = " ".join(str(error).split())
    return (
        f"{type(error).__name__}: {line} (a bug in rsquant, not in your input; --debug shows where)"
    ), 1
