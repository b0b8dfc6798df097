"""JSON as its standard has it: no NaN, no infinity, no name twice, no depth without end."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(text: str) -> Any:
    """What a JSON text holds, without the extensions of Python's reader.

    Raises:
        ValueError: in one line of at most 80 characters.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
        return value

    try:
        return json.loads(text, object_pairs_hook=table, parse_constant=number, parse_float=number)
    # Nesting deeper than the interpreter's stack is the second.
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{reason:.80}") from error
