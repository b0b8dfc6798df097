"""One call of a traced network, as the operations of `packed.ops` read it.

`OpSpec.TORCH` names what an operation is made of by full names, "torch.nn.MaxPool2d",
"torch.nn.functional.max_pool2d", or ".max_pool2d" of a method, so that `packed` needs no torch.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

from torch import fx, nn

from rsquant.errors import PackError
from rsquant.nn.tracer import argument
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.registry import by_torch_name
from rsquant.packing.dims import shape
from rsquant.packing.ops import Op, Pair
from rsquant.packing.tracers import is_for_one_size

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ipow")


class Call:
    """A module, function or method that is called.

    Args:
        cells: the values of the network, by node.
        note: takes an operation that comes before the result's.
    Attributes:
        name: of the layer, or torch.fx's name for a function.
        module: the module, or None.
        what: name of the module's class, the function or the method.
    """

    def __init__(
        self,
        node: fx.Node,
        module: nn.Module | None,
        cells: dict[fx.Node, Any],
        note: Callable[[Op], Op],
    ) -> None:
        self.node = node
        self.name = str(node.target) if module is not None else node.name
        self.module = module
        self.what = type(module).__name__ if module is not None else _name(node.target)
        self._cells, self.note = cells, note
        self._steps = 0

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name; of a module, its attribute of that name.

        Positions count the tensor that is worked on as 0, in functions and methods alike.

        Raises:
            PackError: it is computed from sizes, and not known (see `tracers.SizedTracer`).
        """
        if self.module is not None:
            return getattr(self.module, name, default)
        found = argument(self.node, position, name, default)
        fx.node.map_arg(found, lambda node: self._check_known(node, name))
        return found

    def _check_known(self, node: fx.Node, name: str) -> None:
        if node not in self._cells:
            self.refuse(f"computes {name} from sizes", "give it as a fixed number")

    def input(self, position: int = 0, name: str = "input") -> Op:
        """A value of the network.

        Raises:
            PackError: it is something else.
        """
        return self.value(argument(self.node, position, name, None))

    def inputs(self, position: int = 0, name: str = "tensors") -> tuple[Op, ...]:
        """A list of values of the network."""
        given = argument(self.node, position, name, None)
        if not isinstance(given, (list, tuple)):
            return (self.value(given),)
        return tuple(self.value(source) for source in given)

    def value(self, source: Any) -> Op:
        """The value that an argument is.

        Raises:
            PackError: it is not a value of the network.
        """
        cell = self._cells.get(source) if isinstance(source, fx.Node) else None
        if cell is None:
            self.refuse("reads something that is not a value of the network")
        found: Op = cell.op
        return found

    def size(self, position: int, name: str) -> Any:
        """An argument with a `dims.Dim` for each number that is a size of a value.

        Of a module its attribute of that name, unless it is called with one.
        """
        given = argument(self.node, position, name, None)
        if given is None and self.module is not None:
            return getattr(self.module, name, None)
        return shape(given, self._cells)

    @property
    def sized(self) -> bool:
        """Whether the network is traced for one size of the images: then sizes are numbers."""
        return is_for_one_size(self.node)

    @property
    def full_name(self) -> str:
        """The name, and of a function in a module that module's."""
        where = module_of(self.node)
        return f"{self.name} in {where}" if where else self.name

    def is_value(self, source: Any) -> bool:
        """Whether an argument is a value of the network."""
        return isinstance(source, fx.Node) and source in self._cells

    def op(
        self,
        kind: str,
        inputs: tuple[Op, ...],
        *,
        channels: int | None = None,
        pixels: Pair | None = None,
        part: int | None = None,
        **fields: Any,
    ) -> Op:
        """A traced operation.

        Args:
            kind: its name in files.
            channels: of the result; None: those of the first input.
            pixels: see `Op`.
            part: number of the result, where there are several.
            fields: of its dataclass, but for name, inputs and outputs.
        """
        return Op(
            kind,
            self.name if part is None else f"{self.name}.{part}",
            inputs,
            fields=fields,
            channels=inputs[0].channels if channels is None else channels,
            pixels=pixels,
        )

    def step(self, kind: str, inputs: tuple[Op, ...], **more: Any) -> Op:
        """An operation, as of `op`, that comes before the result's."""
        return self.before(self.op(kind, inputs, **more))

    def before(self, op: Op) -> Op:
        """Note an operation that is not the result."""
        self._steps += 1
        op.name = f"{op.name}.{self._steps}"
        return self.note(op)

    @property
    def in_place(self) -> bool:
        """Whether the result takes the place of the first argument."""
        target = self.node.target
        if self.node.op == "call_method":
            return str(target).endswith("_")
        if self.module is not None:
            return bool(getattr(self.module, "inplace", False))
        if changes_in_place(_name(target)):
            return True
        return bool(argument(self.node, _position(target, "inplace"), "inplace", False))

    def refuse(self, why: str, do: str = "replace it, or use another network") -> NoReturn:
        """Raise PackError."""
        raise PackError(refusal(self.node, why, do))


def changes_in_place(name: str) -> bool:
    """Whether a function or method of this name gives its result the place of an argument."""
    return name.endswith("_") or name in _IN_PLACE


def _name(target: Any) -> str:
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def _position(function: Any, name: str) -> int:
    """Of a function's parameter; beyond all arguments where it has none of this name."""
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # compiled, and says nothing of itself
        names = []
    return names.index(name) if name in names else sys.maxsize


def operation_of(node: fx.Node, module: nn.Module | None) -> type[OpSpec] | None:
    """The operation that says it is made of what a node calls."""
    if node.op == "call_method":
        return by_torch_name().get(f".{node.target}")
    return _by_object().get(node.target if module is None else type(module))


@cache
def _by_object() -> dict[Any, type[OpSpec]]:
    found = {}
    for name, kind in by_torch_name().items():
        owner, _, last = name.rpartition(".")
        if owner:
            found[getattr(importlib.import_module(owner), last)] = kind
    return found


def refusal(node: fx.Node, why: str, do: str) -> str:
    """Which operation cannot be packed, why, and what to do."""
    name = str(node.target) if node.op == "call_module" else node.name
    where = module_of(node)
    return f"{name}: {why}{f', in {where}' if where else ''}; {do}"


def module_of(node: fx.Node) -> str:
    """The module whose forward an operation is in; nothing for a layer, or in the network's own."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    # A layer's own entry is the last.
    if node.op == "call_module":
        return ""
    if not stack:
        return ""
    name, kind = stack[-1]
    return f"{name} ({getattr(kind, '__name__', kind)})"
