"""Parameter types and options shared by commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from rsquant import choices
from rsquant.text import did_you_mean

# In pixels; a slip above it would only run out of memory.
LARGEST_SIZE = 4096
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Numbers(click.ParamType):
    """Comma-separated whole numbers: 1,2."""

    name = "numbers"
    what = "numbers like 1,2"
    most: int | None = None

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be {self.what}, got '{value}'", param, ctx)
        if self.most is not None and max(numbers) > self.most:
            self.fail(f"must be at most {self.most}, got '{value}'", param, ctx)
        return numbers


class Sizes(Numbers):
    """Comma-separated sizes in pixels: 96,80,64."""

    name = "sizes"
    what = "sizes in pixels like 96,80,64"
    most = LARGEST_SIZE


class Assignment(click.ParamType):
    """PATTERN=VALUE."""

    def __init__(self, form: str) -> None:
        self.name = form.lower()
        self.form = form

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        pattern, equals, given = str(value).rpartition("=")
        if not equals or not pattern.strip() or not given.strip():
            self.fail(f"must be {self.form}, got '{value}'", param, ctx)
        return pattern.strip(), given.strip()

    def get_metavar(self, param: Any, ctx: Any = None) -> str:
        return self.form


def mapping(flag: str, given: Sequence[tuple[str, str]]) -> dict[str, str] | None:
    """What repeated `Assignment` flags say, in their order; None where there are none.

    Raises:
        ConfigError: a pattern is given twice.
    """
    patterns = [pattern for pattern, _ in given]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            from rsquant.errors import ConfigError

            raise ConfigError(f"{flag}: '{pattern}' is given twice; keep one")
    return dict(given) or None


class Seconds(click.FloatRange):
    """A time of at most a week."""

    def __init__(self) -> None:
        super().__init__(0, 7 * 24 * 3600)

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        seconds: float = super().convert(value, param, ctx)
        if seconds != seconds:  # NaN is in every range, as click compares
            self.fail(f"must be a number of seconds, got '{value}'", param, ctx)
        return seconds


class Share(click.ParamType):
    """Two comma-separated shares: 0.08,1."""

    name = "low,high"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be two shares like 0.08,1, got '{value}'", param, ctx)
        return low, high


class Bits(click.ParamType):
    """Comma-separated bits of weights and activations: 4/4,2/2."""

    name = "W/A,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(","))


class Widths(click.ParamType):
    """Comma-separated shares of a network's channels: 1.0,0.75,0.5."""

    name = "SHARE,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be shares of the channels, 1.0,0.75,0.5, got '{value}'", param, ctx)


class Suggested(click.ParamType):
    """Any text; the shell completes these names. The library says what is wrong with others.

    Args:
        name: what the help page shows for it.
        names: to complete.
        kind: "dir" or "file", which the shell completes as well.
    """

    def __init__(self, name: str, names: Sequence[str], kind: str | None = None) -> None:
        self.name, self._names, self._kind = name, names, kind

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in self._names if name.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type=self._kind)] if self._kind else [])


class Registered(click.Choice[str]):
    """Names of this package, and those that a program registered before it came here.

    Args:
        names: of this package.
        registry: module whose `names()` are all of them, once it is imported.
    """

    def __init__(self, names: tuple[str, ...], registry: str) -> None:
        super().__init__(names)
        self.registry = registry

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if registry := sys.modules.get(self.registry):
            self.choices = registry.names()
        if value not in self.choices and (hint := did_you_mean(value, self.choices)):
            self.fail(f"unknown name '{value}'; {hint}known: {', '.join(self.choices)}", param)
        name: str = super().convert(value, param, ctx)
        return name


QUANTIZERS = Registered(choices.QUANTIZERS, "rsquant.quantizers.registry")
TASKS = Registered(choices.TASKS, "rsquant.tasks.registry")


class RunOrCheckpoint(click.ParamType):
    """A run folder, a run's name or a checkpoint, as text; the shell completes runs and files."""

    name = "run_or_checkpoint"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        from rsquant import runs

        names = [run.name for run in runs.all_runs() if run.name.isprintable()]
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


ARCH = Suggested("network", (*choices.ARCHITECTURES, "torchvision:", "timm:"))
DATA = Suggested("set", ("shapes", "torchvision:"), "dir")
DEVICE = Suggested("device", choices.DEVICES)


class Renamed(click.Option):
    """An option whose first spelling is shown; the old ones after it still work."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def run_argument(command: _Command) -> _Command:
    """RUN_OR_CHECKPOINT, which most commands take."""
    argument = click.argument("run_or_checkpoint", required=False, type=RunOrCheckpoint())
    return argument(command)


def joined_sizes(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[int, ...], ...]
) -> tuple[int, ...] | None:
    """All sizes that an option which may repeat was given; None where it was not."""
    return tuple(size for sizes in value for size in sizes) or None


def sizes_option(text: str) -> Callable[[_Command], _Command]:
    """--resolutions 96,80, also as --resolution 96 --resolution 80; None where it is not given."""
    return click.option(
        "--resolutions",
        "--resolution",
        type=Sizes(),
        multiple=True,
        callback=joined_sizes,
        help=text,
    )


def checkpoint_option(command: _Command) -> _Command:
    """--checkpoint best or last, as `which`."""
    option = click.option(
        "--checkpoint",
        "which",
        type=click.Choice(choices.CHECKPOINTS),
        default="best",
        show_default=True,
        help="Which checkpoint of a run folder.",
    )
    return option(command)


def json_option(text: str = "Also write the table to this file.") -> Callable[[_Command], _Command]:
    """--json FILE, as `json_file`."""
    return click.option("--json", "json_file", type=click.Path(path_type=Path), help=text)


# Of networks with several settings of them.
_SEVERAL = ("width", "bits")


def setting_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Headings of what settings differ in, where rows have any."""
    return [name for name in _SEVERAL if name in rows[0]]


def setting_cells(row: dict[str, Any]) -> list[str]:
    """The cells for `setting_columns`."""
    return [f"{row[name]:g}" if name == "width" else row[name] for name in _SEVERAL if name in row]
