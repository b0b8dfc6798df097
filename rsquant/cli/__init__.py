"""The `rsquant` command: a group whose subcommands are imported when used."""

from __future__ import annotations

import importlib
import sys
import traceback

import click

from rsquant import __version__
from rsquant.errors import RsquantError
from rsquant.machine import wait_briefly
from rsquant.system import refusal
from rsquant.text import one_line

# Order of the help page. Each is a module here with a click command named `command`.
COMMANDS = ("train", "eval", "export", "pack", "bench", "info")


class _LazyGroup(click.Group):
    """Imports a subcommand's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if name != "bench":  # which measures torch as it is
            wait_briefly()
        module = importlib.import_module(f"rsquant.cli.{name.replace('eval', 'evaluate')}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Any command takes --debug: show the traceback of an error.",
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
    debug = "--debug" in given
    try:
        result = group.main(
            [a for a in given if a != "--debug"], prog_name="rsquant", standalone_mode=False
        )
        # click returns an exit status it was asked for (--help, --version), commands return None.
        sys.exit(result if isinstance(result, int) else 0)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        where = getattr(getattr(error, "ctx", None), "command_path", "rsquant")
        line = " ".join(error.format_message().split())
        _complain(f"{line} (see {where} --help)")
        sys.exit(2)
    except RsquantError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error))
        sys.exit(2)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if refused := refusal(error):
            _complain(refused)
            sys.exit(2)
        line = " ".join(str(error).split())
        _complain(
            f"{type(error).__name__}: {line} (a fault of rsquant, not of your input; "
            "--debug shows where)"
        )
        sys.exit(1)


def _complain(line: str) -> None:
    """One line on the error stream, whatever the names in it hold."""
    click.echo(f"error: {one_line(line)}", err=True)
