"""Messages of the library, which name parameters, in the words of the command line: flags."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping

import click

# A parameter in backticks, as messages have it: `lr`, `exist_ok=True`, `resume('runs/x')`.
_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*)|\(([^`]*)\))?`")
# A key of a configuration that was given as flags: "settings: train.lr: must be ..".
_SETTING = re.compile(r"^settings: (?:model|data|train)\.(\w+)(?=: )")
# What has another name here, and what another command does.
_OTHERS = {"source": "--data", "resolutions=()": "--all"}
_COMMANDS = {"resume": "rsquant train --resume"}


def as_flags(message: str, command: click.Command | None) -> str:
    """A message with the flags of a command in place of the parameters it names.

    `exist_ok=True` becomes --exist-ok, `nesterov=False` --no-nesterov, `form='float'` --form float.
    What is no flag of the command keeps its name, without backticks.
    """
    flags = _flags(command)

    def setting(match: re.Match[str]) -> str:
        return flags.get(match[1], match[0])

    def parameter(match: re.Match[str]) -> str:
        name, value = match[1], match[2] if match[2] is not None else match[3]
        if (whole := f"{name}={value}") in _OTHERS:
            return _OTHERS[whole]
        flag = _COMMANDS.get(name) or flags.get(name) or _OTHERS.get(name)
        if flag is None:
            return match[0].strip("`")
        if value is None or value == "True":
            return flag
        if value == "False":
            return flags.get(f"no_{name}", flag)
        return f"{flag} {shlex.quote(_text(value))}"

    return _PARAMETER.sub(parameter, _SETTING.sub(setting, message))


def _flags(command: click.Command | None) -> Mapping[str, str]:
    """The name of every option's parameter, and every long spelling as a name, to its flag."""
    flags: dict[str, str] = {}
    options = [p for p in command.params if isinstance(p, click.Option)] if command else []
    for option in options:
        long = [o for o in (*option.opts, *option.secondary_opts) if o.startswith("--")]
        flags |= {o.removeprefix("--").replace("-", "_"): o for o in long}
    for option in options:
        if option.name and not option.hidden:
            flags.setdefault(option.name, option.opts[0])
    return flags


def _text(value: str) -> str:
    """What a value in a message stands for: a text in quotes, or the word itself."""
    try:
        found = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
    return found if isinstance(found, str) and found.isprintable() else value
