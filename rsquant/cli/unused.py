"""Options that were given although they change nothing: refused, before any work."""

from __future__ import annotations

from collections.abc import Mapping

import click
from click.core import ParameterSource


def given(name: str) -> bool:
    """Whether the running command's parameter was given, also as its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT)


def refuse_idle_exist_ok(*files: object) -> None:
    """Raise UsageError for an --exist-ok where none of these is to be written."""
    written = any(file is not None for file in files)
    refuse_unused({"exist_ok": "" if written else "replaces files, and none is written"})


def refuse_unused(reasons: Mapping[str, str]) -> None:
    """Raise UsageError for the first option that was given and has no effect.

    Args:
        reasons: parameter -> why it changes nothing, in a clause; "": it has an effect.
    """
    for option in click.get_current_context().command.params:
        why = reasons.get(option.name or "")
        if why and given(option.name or ""):
            raise click.UsageError(f"{option.opts[0]}: {why}; leave it out")
