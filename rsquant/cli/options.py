"""Parameter types shared by commands."""

from __future__ import annotations

from typing import Any

import click


class Numbers(click.ParamType):
    """Comma-separated whole numbers: 1,2."""

    name = "numbers"
    what = "numbers like 1,2"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be {self.what}, got '{value}'", param, ctx)


class Sizes(Numbers):
    """Comma-separated sizes in pixels: 96,80,64."""

    name = "sizes"
    what = "sizes in pixels like 96,80,64"


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
