"""YAML that somebody else wrote: small, shallow, without aliases, every key once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rsquant.errors import ConfigError
from rsquant.system import special

# A run's config.yaml has 1 KB and 3 levels (the file, a section, a list). The parser takes a
# second for 64 KB, and its memory is some hundred times the text.
MAX_BYTES = 64 * 2**10
MAX_DEPTH = 8


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits.

    Aliases are refused: a file of 1 KB can stand for 10^9 values with them, and settings need none.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases (*name) are not supported; write the value itself", event)
        if self._depth == MAX_DEPTH:
            raise _error(f"is nested more than {MAX_DEPTH} deep", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                raise _error(f"the key '{key[1]:.60}' occurs twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _error(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: dicts, lists, text, numbers, true, false and dates.

    Raises:
        ConfigError: the file cannot be read, has more than MAX_BYTES bytes, is not YAML in UTF-8,
            is nested deeper than MAX_DEPTH, has an alias, or has a key twice.
    """
    path = Path(path)
    # A shell's <(command) is a pipe that someone writes to; others may never be.
    kind = None if str(path).startswith(("/dev/fd/", "/dev/stdin")) else special(path)
    if kind is not None:
        raise ConfigError(f"{path}: is {kind}, not a file; name a YAML file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_BYTES:,} bytes; is it a file of settings?")
    try:
        return yaml.load(data.decode("utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_reason(error)}") from error
    # Text that is not UTF-8, characters that YAML does not have, dates such as 2026-13-45.
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {reason:.200}") from error
    # The library's constructors for !!int "", !!bool maybe, !!timestamp x.
    except (LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not valid YAML: a value does not match its tag") from error


def _reason(error: yaml.MarkedYAMLError) -> str:
    parts = [str(part) for part in (error.context, error.problem) if part]
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return f"{' '.join(', '.join(parts).split()):.300}{where}"
