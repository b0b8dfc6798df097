"""Run a network on random images, and see which layers run, what they read and what they feed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import ModelError
from rsquant.nn.flow import IMAGE, Flow, WeightUse, tensors
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.sizes import advice, check_smallest
from rsquant.tasks import Task
from rsquant.tasks.classification import CLASSIFICATION


@dataclass(frozen=True)
class Probe:
    """What forward passes show; layers are Conv2d and Linear layers, by name.

    Attributes:
        order: layers in the order they first run.
        signed: those whose input has negative values.
        readers: those that read the image, with no other layer between.
        heads: those whose output is part of the network's, with no other layer between.
        vectors: SyncBatchNorms, by name, that read (N, C) or (N, C, L): they take any shape.
        uses: products with weights outside of any layer.
        size: side of the image in pixels.
        last_side: side of the smallest map.
        num_classes: that its output tells apart.
    """

    order: tuple[str, ...]
    signed: frozenset[str]
    readers: frozenset[str]
    heads: frozenset[str]
    vectors: frozenset[str]
    uses: tuple[WeightUse, ...]
    size: int
    last_side: int
    num_classes: int

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the smallest map, each way."""
        return max(1, round(self.size / self.last_side))


def survey(network: nn.Module, sizes: Sequence[int], task: Task = CLASSIFICATION) -> Probe:
    """Probe a network at every size it is meant for; the network's modes and layers stay as is.

    Args:
        sizes: in pixels, largest first.
        task: whose outputs it must return.
    Returns:
        What all runs together show. The stride is that of the largest image, 256 pixels at least
        where the network takes such: the last map's side then shows it, whatever is trained.
    Raises:
        ModelError: naming the sizes at which the network does not run, why, and at which it does;
            a size below the stride; no output of the task; no layer.
    """
    who = type(network).__name__
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in network.parameters()):
        _runs(network, sizes[0])  # lazy layers take their shapes from a size that is wanted
    large = max(sizes[0], 256)
    probes: list[Probe] = []
    refused: dict[int, _NotRun] = {}
    for size in dict.fromkeys((large, *sizes)):
        try:
            probes.append(probe(network, size, task))
        except _NotRun as error:
            refused[size] = error
    if probes:
        check_smallest(sizes, probes[0].stride, who)
        if large not in sizes:
            refused.pop(large, None)
    if refused:
        first = next(iter(refused))
        what = (
            f"{_listed([size for size in sizes if size in refused])} not run"
            if probes
            else f"does not run on a {first} x {first} image"
            + (f", nor at {', '.join(map(str, sizes))}" if len(refused) > 1 else "")
        )
        use = advice(lambda size: _runs(network, size), sorted(refused), [p.size for p in probes])
        raise ModelError(f"{who}: {what}: {refused[first]}; {use}") from refused[first].__cause__
    order = tuple(dict.fromkeys(name for p in probes for name in p.order))
    return Probe(
        order,
        frozenset().union(*(p.signed for p in probes)),
        frozenset().union(*(p.readers for p in probes)),
        frozenset().union(*(p.heads for p in probes)),
        frozenset().union(*(p.vectors for p in probes)),
        tuple(dict.fromkeys(use for p in probes for use in p.uses)),
        probes[0].size,
        probes[0].last_side,
        probes[0].num_classes,
    )


def _listed(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return f"resolution {sizes[0]} does"
    return f"resolutions {', '.join(map(str, sizes[:-1]))} and {sizes[-1]} do"


class _NotRun(Exception):
    """The network does not run at a size; the message says why."""


def probe(network: nn.Module, size: int, task: Task = CLASSIFICATION) -> Probe:
    """Run one random image of size x size pixels, in evaluation mode.

    Raises:
        ModelError: the network returns no output of the task, or has no Conv2d or Linear layer.
    """
    who = type(network).__name__
    watch = _Watch(network)
    image = random_image(network, size)
    try:
        flow: Flow | None = Flow(network, image, lambda: watch.running)
        output = watch.run(image, flow)
    except Exception:
        # Either the network does not run, or something in it bears no dispatch mode.
        flow, watch = None, _Watch(network)
        try:
            output = watch.run(image, None)
        except Exception as error:  # whatever a user's forward raises
            raise _NotRun(watch.reason(error)) from error
    order = tuple(watch.order)
    if not order:
        raise ModelError(f"{who}: has no Conv2d or Linear layer, nothing to quantize")
    classes = task.num_classes(output)
    if classes is None:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"{who}: must return {task.outputs}, got {got}; choose another network or `task`"
        )
    readers = frozenset(watch.readers)
    ends = flow.sources(output) if flow is not None else frozenset()
    # Values that left torch (numpy, sparse) have no origin: then the order has to do.
    if not readers and not (flow is not None and flow.image_used):
        readers = frozenset(order[:1])
    heads = ends & set(order) if ends else frozenset(order[-1:])
    return Probe(
        order,
        frozenset(watch.signed),
        readers,
        heads,
        frozenset(watch.vectors),
        tuple(flow.uses) if flow else (),
        size,
        min(watch.sides, default=size),
        classes,
    )


class _Watch:
    """Hooks on every module of a network, for one run."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.order: dict[str, None] = {}
        self.signed: set[str] = set()
        self.vectors: set[str] = set()
        self.readers: set[str] = set()
        self.sides: list[int] = []
        # Modules that run now, outermost first, and the tensors each was given.
        self.stack: list[tuple[str, nn.Module, list[Tensor]]] = []

    @property
    def running(self) -> str:
        """Name of the innermost module that runs."""
        return self.stack[-1][0] if self.stack else ""

    @torch.no_grad()
    def run(self, image: Tensor, flow: Flow | None) -> Any:
        handles = []
        for name, module in self.network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            before, after = self._hooks(name, flow)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        mode: AbstractContextManager[Any] = nullcontext() if flow is None else flow
        try:
            with evaluating(self.network), mode:
                return self.network(image)
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(
        self, name: str, flow: Flow | None
    ) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs = list(tensors((args, kwargs)))
            self.stack.append((name, module, inputs))
            if isinstance(module, nn.SyncBatchNorm) and inputs and inputs[0].dim() < 4:
                self.vectors.add(name)
            if not isinstance(module, (nn.Conv2d, nn.Linear)):
                return
            self.order[name] = None
            if any(x.numel() and x.min() < 0 for x in inputs):
                self.signed.add(name)
            if flow is not None:
                if IMAGE in flow.sources(inputs):
                    self.readers.add(name)
                flow.enter()

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            _, _, inputs = self.stack.pop()
            if not isinstance(module, (nn.Conv2d, nn.Linear)):
                return
            # Squeeze-and-excitation convolves 1 x 1 maps; they say nothing about the stride.
            if isinstance(output, Tensor) and output.dim() == 4 and inputs[0].shape[-1] > 1:
                self.sides.append(output.shape[-1])
            if flow is not None:
                flow.leave(name, output)

        return before, after

    def reason(self, error: Exception) -> str:
        """Why a run failed, in one line: where it was, and what was wrong there."""
        name, module, inputs = self.stack[-1] if self.stack else ("", self.network, [])
        kind = type(module).__name__
        where = f"{name} ({kind})" if name else f"its own forward ({kind})"
        given = inputs[0] if inputs else None
        if given is not None and given.dim():
            takes, axis, what = 0, -1, "values"
            if isinstance(module, nn.Linear):
                takes = module.in_features
            elif isinstance(module, nn.Conv2d) and given.dim() == 4:
                takes, axis, what = module.in_channels, 1, "channels"
            if takes not in (0, given.shape[axis]):
                return f"{where} takes {takes} {what} and is given {given.shape[axis]}"
        text = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        lower = text.lower()
        if "must match" in lower and "size" in lower:
            return f"maps of different sizes meet in {where}"
        if "too small" in lower or "kernel size can't be greater" in lower:
            side = "x".join(map(str, given.shape[-2:])) if given is not None else "its"
            return f"a map of {side} pixels is too small for {where}"
        return f"{where} fails: {text}"


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module has its own mode again.

    Random numbers drawn inside are not missed outside, and fused calls, which bypass layers, are
    switched off.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices=[]), evaluation_mode(network):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def random_image(network: nn.Module, size: int) -> Tensor:
    """(1, 3, size, size), always the same, on the network's device and of its dtype."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, size, size, generator=generator)
    parameter = next(network.parameters(), None)
    return image if parameter is None else image.to(parameter.device, parameter.dtype)


@torch.no_grad()
def _runs(network: nn.Module, size: int) -> bool:
    """Whether the network gives something for an image of size x size pixels."""
    try:
        with evaluating(network):
            network(random_image(network, size))
    except Exception:  # whatever a user's forward raises
        return False
    return True
