"""How `rsquant bench` finds its command: without the name of one it times networks."""

from __future__ import annotations

import difflib
from pathlib import Path

import click
from click.shell_completion import CompletionItem

DEFAULT = "networks"
# Options of one command that were, or could be, given to `rsquant bench` alone.
_MOVED = {
    "--kernels": "is a command: rsquant bench kernels",
    "--train": "is a command: rsquant bench training",
    "--plot": "belongs to rsquant bench kernels",
    "--amp": "belongs to rsquant bench training",
}


class BenchGroup(click.Group):
    """A group that runs its command `networks` where the arguments name none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        helps = any(name in args[:1] for name in ctx.help_option_names)
        named = bool(args) and args[0] in self.commands
        # The shell asks with no arguments for what may come first.
        if not (helps or named or (ctx.resilient_parsing and not args)):
            if not ctx.resilient_parsing:
                self._check(ctx, args)
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and what `networks` takes."""
        default = self.commands[DEFAULT]
        with default.make_context(DEFAULT, [], parent=ctx, resilient_parsing=True) as inner:
            found = super().shell_complete(ctx, incomplete)
            known = {item.value for item in found}
            more = default.shell_complete(inner, incomplete)
            for param in default.params:
                if isinstance(param, click.Argument):
                    more += param.shell_complete(inner, incomplete)
        return found + [item for item in more if item.value not in known]

    def _check(self, ctx: click.Context, args: list[str]) -> None:
        """Say in one line where an option went, or which command was meant."""
        for arg in args:
            option = arg.partition("=")[0]
            if option in _MOVED:
                raise click.UsageError(f"{option} {_MOVED[option]}", ctx)
            if arg in self.commands and arg != DEFAULT and not _exists(arg):
                raise click.UsageError(
                    f"'{arg}' must come first: rsquant bench {arg}, followed by its options", ctx
                )
        if args and not args[0].startswith("-") and "/" not in args[0] and not _exists(args[0]):
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            if close:
                raise click.UsageError(
                    f"no run or checkpoint '{args[0]}'; did you mean 'rsquant bench {close[0]}'?",
                    ctx,
                )


def _exists(name: str) -> bool:
    """Whether a name is a file, a folder or a run."""
    from rsquant.runs import RUNS

    try:
        return Path(name).exists() or (RUNS / name).exists()
    except (OSError, ValueError):  # no name of a file
        return False
