"""Parameter types shared by commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

# In pixels; a slip above it would only run out of memory.
LARGEST_SIZE = 4096


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
