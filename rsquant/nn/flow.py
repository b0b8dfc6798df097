"""Where values come from while a network runs: the image, a layer, or parameters alone.

A dispatch mode sees every operation, whatever control flow chose it, so nothing has to be traced.
A value's origins are kept per storage: views share them, and writing in place adds to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

# No module has this name: the root's is empty, others are Python names or numbers.
IMAGE = "<image>"

_CONVOLUTION = "a convolution"
_MATRIX = "a matrix product"
# Operations that multiply data by a weight, by aten's names.
_PRODUCTS = {
    "convolution": _CONVOLUTION,
    "_convolution": _CONVOLUTION,
    "conv2d": _CONVOLUTION,
    **dict.fromkeys(
        ("linear", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "matmul"),
        _MATRIX,
    ),
    "_trilinear": "a bilinear product",
    "embedding": "an embedding lookup",
    "_embedding_bag": "an embedding lookup",
    "_native_multi_head_attention": "attention",
    "_transformer_encoder_layer_fwd": "attention",
    "lstm": "a recurrent layer",
    "gru": "a recurrent layer",
    "rnn_tanh": "a recurrent layer",
    "rnn_relu": "a recurrent layer",
    "mkldnn_rnn_layer": "a recurrent layer",
}


@dataclass(frozen=True)
class Origins:
    """Where a value comes from.

    Attributes:
        sources: IMAGE and the names of the layers it was computed from, up to the nearest layer
            on each way; empty for constants and for what is computed from parameters alone.
        parameters: names of parameters, for values computed from nothing but them.
    """

    sources: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()


@dataclass(frozen=True)
class WeightUse:
    """A product with a weight, outside any layer that is known.

    Attributes:
        parameters: names of the parameters the weight is computed from; none if it depends on
            the data, or is not registered.
        operation: what it is used by, in words.
        module: name of the innermost module that ran.
    """

    parameters: frozenset[str]
    operation: str
    module: str


class Flow(TorchDispatchMode):
    """Follows origins through every operation inside its block.

    Between `enter(layer)` and `leave(layer, output)` products are the layer's own; outside they
    are noted in `uses`, and end the way of a value as a layer does.

    Args:
        network: its parameters have their names as origins.
        image: has IMAGE as its origin.
        running: says which module runs now.
    """

    def __init__(self, network: nn.Module, image: Tensor, running: Callable[[], str]) -> None:
        super().__init__()
        self.running = running
        self.uses: list[WeightUse] = []
        self.image_used = False
        self._depth = 0
        # A weak reference also keeps a storage's address from being used again.
        self._origins: dict[StorageWeakRef, Origins] = {}
        self._set(image, Origins(frozenset({IMAGE})))
        for name, parameter in network.named_parameters():
            if not isinstance(parameter, nn.parameter.UninitializedParameter):
                self._set(parameter, Origins(parameters=frozenset({name})))

    def sources(self, *values: Any) -> frozenset[str]:
        """IMAGE and the layers that values come from, all together."""
        found = [self._get(x).sources for x in tensors(values)]
        return frozenset().union(*found)

    def enter(self) -> None:
        """A known layer starts."""
        self._depth += 1

    def leave(self, layer: str, output: Any) -> None:
        """A known layer ends: what it returns comes from it alone."""
        self._depth -= 1
        for x in tensors(output):
            self._set(x, Origins(frozenset({layer})))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func.overloadpacket.__name__
        inputs = list(tensors((args, kwargs)))
        origins = self._union(inputs)
        if name.startswith("new_") or name.endswith("_like"):
            origins = Origins()  # only the shape is the input's
        product = _PRODUCTS.get(name.removesuffix("_"))
        if product is not None and self._depth == 0:
            origins = self._product(product, inputs, origins)
        keys = {_key(x) for x in inputs}
        changed = list(_written(func, args, kwargs)) if func._schema.is_mutable else []
        for x in changed:
            before = self._get(x)
            self._set(x, _joined([before, origins]))
        for x in tensors(out):
            if _key(x) not in keys:
                self._set(x, origins)

    def _product(self, operation: str, inputs: list[Tensor], origins: Origins) -> Origins:
        """Note a product with a weight; the origins of its result."""
        mixed = operation == _CONVOLUTION and len(inputs) > 1 and self._get(inputs[1]).sources
        # One dimension is a bias.
        weights = [x for x in inputs if x.dim() > 1 and not self._get(x).sources]
        names: frozenset[str] = frozenset().union(*(self._get(x).parameters for x in weights))
        strange = any(isinstance(x, nn.Parameter) and not self._get(x).parameters for x in weights)
        if not names and not strange and not mixed:
            return origins  # two values, or a constant kernel: preprocessing
        if not origins.sources and operation == _MATRIX:
            return origins  # a weight made of weights
        self.uses.append(WeightUse(names, operation, self.running()))
        self.image_used |= IMAGE in origins.sources
        return Origins(names or frozenset({self.running()}))

    def _union(self, values: Sequence[Tensor]) -> Origins:
        return _joined([self._get(x) for x in values])

    def _get(self, x: Tensor) -> Origins:
        key = _key(x)
        return Origins() if key is None else self._origins.get(key, Origins())

    def _set(self, x: Tensor, origins: Origins) -> None:
        key = _key(x)
        if key is not None:
            self._origins[key] = origins


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors(value)


def _key(x: Tensor) -> StorageWeakRef | None:
    try:
        return StorageWeakRef(x.untyped_storage())
    except (NotImplementedError, RuntimeError):  # sparse layouts have no storage
        return None


def _joined(origins: Iterable[Origins]) -> Origins:
    origins = list(origins)
    sources: frozenset[str] = frozenset().union(*(o.sources for o in origins))
    # What depends on the data is no weight: a BatchNorm's parameters end in its output.
    if sources:
        return Origins(sources)
    return Origins(parameters=frozenset().union(*(o.parameters for o in origins)))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments an operation writes to."""
    for i, argument in enumerate(func._schema.arguments):
        info = argument.alias_info
        if info is not None and info.is_write:
            yield from tensors(args[i] if i < len(args) else kwargs.get(argument.name))
