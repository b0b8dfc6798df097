"""What belongs to one call of a network: its own thread sees it, and so do recomputations.

Two threads may use one network at two sizes, so what a call sets is kept per thread, as
torch.no_grad is. Activation checkpointing runs parts of a forward again, in backward, when the call
is over and maybe in another thread. Such a recomputation must compute what the forward did: with
the values its call had set, and with the bases that its quantizers had then. It must move nothing a
second time.

torch's checkpoint offers no place to say so in all its forms, so `carry_through_checkpoints` wraps
the two functions that all of them end in. Other implementations are recognised and refused.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from rsquant.errors import ModelError


class PerCall(threading.local):
    """A value that a block sets for the calls inside it, in this thread and in recomputations.

    Args:
        default: the value outside of such blocks, and of a copy.
    """

    def __init__(self, default: Any = None) -> None:
        self.default = default
        self.value = default

    def __reduce__(self) -> tuple[type[PerCall], tuple[Any]]:
        return PerCall, (self.default,)


class _Record:
    """The bases that quantizers computed with in a checkpointed function, in order."""

    def __init__(self) -> None:
        self.bases: dict[nn.Module, list[Tensor]] = {}

    def add(self, quantizer: nn.Module, basis: Tensor) -> None:
        self.bases.setdefault(quantizer, []).append(basis)


class _Replay:
    """A record that is read from its start."""

    def __init__(self, record: _Record) -> None:
        self._left = {quantizer: iter(bases) for quantizer, bases in record.bases.items()}

    def next(self, quantizer: nn.Module) -> Tensor:
        basis = next(self._left.get(quantizer, iter(())), None)
        if basis is None:
            raise ModelError(
                f"{type(quantizer).__name__}: runs more often when its checkpointed function is "
                "recomputed than it did before; the function must do the same each time"
            )
        return basis


class _Thread(threading.local):
    """What is in force in a thread: values that blocks have set, and checkpointed functions."""

    values: tuple[PerCall, ...] = ()
    records: tuple[_Record, ...] = ()
    replay: _Replay | None = None


_THREAD = _Thread()


@contextmanager
def using(values: Sequence[tuple[PerCall, Any]]) -> Iterator[None]:
    """Set values inside the block, in this thread; afterwards they are as before."""
    before = [(name, name.value) for name, _ in values]
    outer = _THREAD.values
    try:
        _THREAD.values = outer + tuple([name for name, _ in values])
        for name, value in values:
            name.value = value
        yield
    finally:
        for name, value in before:
            name.value = value
        _THREAD.values = outer


def recomputing() -> bool:
    """Whether a checkpointed function runs again, in backward: then nothing may move."""
    return _THREAD.replay is not None


def basis_of(quantizer: nn.Module, stored: Tensor) -> Tensor:
    """The basis a quantizer computes with: the stored one, or in a recomputation the one it had."""
    basis = stored if _THREAD.replay is None else _THREAD.replay.next(quantizer)
    for record in _THREAD.records:
        record.add(quantizer, basis.clone())
    return basis


def check_forward(who: str) -> None:
    """Raise ModelError inside of a backward pass, if it is not torch's checkpoint that recomputes.

    Must be called by what a second run would move, and by what needs its call to know the size.
    """
    if torch.compiler.is_compiling() or recomputing():
        return
    if torch._C._current_graph_task_id() != -1:
        raise ModelError(
            f"{who}: runs in a backward pass, outside of the network's forward: a recomputation "
            "whose size and bases are not known (activation checkpointing that does not go through "
            "torch.utils.checkpoint); use torch.utils.checkpoint, or train without checkpointing"
        )


class _Checkpointed:
    """One call of a checkpointed function: its first run, and its recomputations.

    Args:
        function: what is checkpointed.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.values = {name: name.value for name in _THREAD.values}
        self.record = _Record()
        self.ran = False

    @contextmanager
    def first(self) -> Iterator[None]:
        """Note bases inside the block; in an outer recomputation, those that are replayed."""
        _THREAD.records = (*_THREAD.records, self.record)
        try:
            yield
        finally:
            # torch may end a block late, when a function failed.
            _THREAD.records = tuple(r for r in _THREAD.records if r is not self.record)

    def again(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function as it ran first."""
        records, replay = _THREAD.records, _THREAD.replay
        try:
            _THREAD.records, _THREAD.replay = (), _Replay(self.record)
            # What backward runs inside of says nothing about this call.
            default = {name: name.default for name in _THREAD.values}
            with using(tuple((default | self.values).items())):
                return self.function(*args, **kwargs)
        finally:
            _THREAD.records, _THREAD.replay = records, replay

    def first_or_again(self, *args: Any, **kwargs: Any) -> Any:
        """The first call is the first run."""
        if self.ran:
            return self.again(*args, **kwargs)
        self.ran = True
        with self.first():
            return self.function(*args, **kwargs)


def carry_through_checkpoints() -> None:
    """Make torch.utils.checkpoint run functions again with the values of the call they belong to.

    Functions that use no quantizer and no switchable BatchNorm do what they did. Under
    torch.compile nothing is changed: there a graph is recomputed, and it moves nothing.
    """
    reentrant = checkpoint.CheckpointFunction.forward
    if hasattr(reentrant, "carries_calls"):
        return

    @functools.wraps(reentrant)
    def forward(ctx: Any, run_function: Callable[..., Any], *args: Any) -> Any:
        return reentrant(ctx, _Checkpointed(run_function).first_or_again, *args)

    # The name of torch 2.15; before, the same function had its arguments in another order.
    name = "_checkpoint_without_reentrant_generator_impl"
    if not hasattr(checkpoint, name):
        name = name.removesuffix("_impl")
    other = getattr(checkpoint, name)

    @functools.wraps(other)
    def generator(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        if torch.compiler.is_compiling():
            yield from other(function, *args, **kwargs)
            return
        call = _Checkpointed(function)
        with call.first():
            # The caller runs the function itself, between the two steps of the generator.
            yield from other(call.again, *args, **kwargs)

    forward.carries_calls = True  # type: ignore[attr-defined]
    checkpoint.CheckpointFunction.forward = staticmethod(forward)  # type: ignore[method-assign]
    setattr(checkpoint, name, generator)
