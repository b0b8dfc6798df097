"""Typed reading of JSON that somebody else wrote."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsquant.text import brief

Pair = tuple[int, int]

_MISSING = object()
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


class FieldError(ValueError):
    """A field that is missing, unknown, or not what it must be; the message names it."""


class Fields:
    """One JSON object; every field is taken once, and `finish` refuses those nobody took.

    Args:
        value: what JSON gave.
        where: what to call the object in a message.
    Raises:
        FieldError: from every method, naming object, field and what was required.
    """

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise FieldError(f"{where} must be an object")
        self._left = dict(value)

    def take(self, name: str) -> Any:
        """A field of any type."""
        value = self._left.pop(name, _MISSING)
        if value is _MISSING:
            raise FieldError(f"{self.where} lacks '{name:.60}'")
        return value

    def has(self, name: str) -> bool:
        """Whether an optional field is there, and not yet taken."""
        return name in self._left

    def is_null(self, name: str) -> bool:
        """Whether a field is there and null; it is taken then."""
        if self._left.get(name, _MISSING) is not None:
            return False
        return self.take(name) is None

    def finish(self) -> None:
        """Raise FieldError if a field is left."""
        if self._left:
            raise FieldError(f"{self.where} has the unknown field {next(iter(self._left))!r:.40}")

    def integer(self, name: str, low: int, high: int) -> int:
        return self._integer(name, self.take(name), low, high)

    def real(self, name: str, low: float = -np.inf, *, positive: bool = False) -> float:
        """A float32's range: finite, at least `low`, above zero (no denormal) if `positive`."""
        return self._real(name, self.take(name), low, positive)

    def _real(self, name: str, value: Any, low: float, positive: bool) -> float:
        if type(value) not in (int, float):
            raise self._wrong(name, "a number", value)
        # Integers may be too large for float(): compared as they are.
        if not max(low, -_LARGEST) <= value <= _LARGEST:
            raise self._wrong(name, "a number in range", value)
        if positive and value < _SMALLEST:
            raise self._wrong(name, "a positive number", value)
        return float(value)

    def real_or_none(self, name: str, low: float = -np.inf) -> float | None:
        if self._left.get(name, _MISSING) is None:
            return self.take(name)
        return self.real(name, low)

    def integer_or_none(self, name: str, low: int, high: int) -> int | None:
        if self._left.get(name, _MISSING) is None:
            return self.take(name)
        return self.integer(name, low, high)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if type(value) is not bool:
            raise self._wrong(name, "true or false", value)
        return value

    def text(self, name: str, longest: int = 500) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > longest:
            raise self._wrong(name, f"text of at most {longest} characters", value)
        return value

    def text_or_none(self, name: str) -> str | None:
        if self._left.get(name, _MISSING) is None:
            return self.take(name)
        return self.text(name)

    def items(self, name: str, shortest: int, longest: int) -> list[Any]:
        """A list, of anything."""
        value = self.take(name)
        if not isinstance(value, list) or not shortest <= len(value) <= longest:
            raise self._wrong(name, f"a list of {shortest} to {longest}", value)
        return value

    def integers(
        self, name: str, low: int, high: int, shortest: int, longest: int
    ) -> tuple[int, ...]:
        found = self.items(name, shortest, longest)
        return tuple(self._integer(name, value, low, high) for value in found)

    def reals(
        self, name: str, shortest: int, longest: int, *, positive: bool = False
    ) -> tuple[float, ...]:
        given = self.items(name, shortest, longest)
        return tuple(self._real(name, value, -np.inf, positive) for value in given)

    def pair(self, name: str, low: int, high: int) -> Pair:
        height, width = self.integers(name, low, high, 2, 2)
        return height, width

    def _integer(self, name: str, value: Any, low: int, high: int) -> int:
        # JSON's true is an int to Python.
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, f"an integer from {low} to {high}", value)
        return value

    def _wrong(self, name: str, required: str, value: Any) -> FieldError:
        return FieldError(f"{self.where}: '{name:.60}' must be {required}, got {brief(value)}")
