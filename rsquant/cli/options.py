"""Parameter types shared by commands."""

from __future__ import annotations

from typing import Any

import click


class Sizes(click.ParamType):
    """Comma-separated sizes in pixels: 96,80,64."""

    name = "sizes"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be sizes in pixels like 96,80,64, got '{value}'", param, ctx)


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


def bits(value: int, name: str) -> int:
    """A bit width that a network can have."""
    if value not in (1, 2, 3, 4, 32):
        raise click.BadParameter(
            f"must be 1, 2, 3, 4, or 32 to leave it alone, got {value}", param_hint=name
        )
    return value
