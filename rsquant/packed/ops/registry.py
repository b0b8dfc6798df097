"""The operations there are: every file of this folder that defines one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from rsquant.packed import ops
from rsquant.packed.ops.base import OpSpec


@cache
def operations() -> dict[str, type[OpSpec]]:
    """Operations by the name they have in files, in alphabetical order."""
    found: dict[str, type[OpSpec]] = {}
    for module in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, OpSpec) and not inspect.isabstract(kind):
                found[kind.OP] = kind
    return dict(sorted(found.items()))


@cache
def by_torch_name() -> dict[str, type[OpSpec]]:
    """Operations by the modules, functions and methods of torch that become one."""
    return {name: kind for kind in operations().values() for name in kind.TORCH}
