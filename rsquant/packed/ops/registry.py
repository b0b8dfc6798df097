"""The operations there are: files of this folder, of the names operations have in packed files."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from rsquant.packed import ops
from rsquant.packed.ops.base import OpSpec


@cache
def operation(name: str) -> type[OpSpec] | None:
    """The operation of a name, or None. Nothing but its file is imported: a network has few."""
    if name not in _files():
        return None
    module = importlib.import_module(f"{ops.__name__}.{name}")
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, OpSpec) and not inspect.isabstract(kind) and name == kind.OP:
            return kind
    return None


@cache
def operations() -> dict[str, type[OpSpec]]:
    """All operations by their names, in alphabetical order."""
    found = {name: operation(name) for name in sorted(_files())}
    return {name: kind for name, kind in found.items() if kind is not None}


@cache
def by_torch_name() -> dict[str, type[OpSpec]]:
    """Operations by the modules, functions and methods of torch that become one."""
    return {name: kind for kind in operations().values() for name in kind.TORCH}


@cache
def _files() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(ops.__path__))
