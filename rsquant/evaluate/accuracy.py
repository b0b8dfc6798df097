"""What a task measures, at any list of sizes, and of the ensemble of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rsquant.data.loader import Batch, Batches, UnreadableLog, evaluation_batches
from rsquant.data.split import Split
from rsquant.data.transforms import normalise
from rsquant.errors import DataError
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.settings import Variant
from rsquant.tasks import Accuracy as Accuracy
from rsquant.tasks import Metric, Task, by_name

Tick = Callable[[int], None]
# A size, its outputs and labels, and positions in the split: of a batch.
Each = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass
class Evaluation:
    """What was measured by size in pixels, and of the ensemble if one was given.

    Attributes:
        sizes: metrics of the task; of classification `Accuracy`.
        paths: with an ensemble, of each path, in the order of `network.settings`.
        over_paths: the mean is that of the paths, which are more than sizes.
    """

    task: Task
    sizes: dict[int, Any]
    paths: list[Any] = field(default_factory=list)
    ensemble: Metric | None = None
    unreadable: UnreadableLog = field(default_factory=UnreadableLog)
    over_paths: bool = False

    @property
    def mean(self) -> float:
        """The task's main figure, the mean over the sizes: what the best checkpoint has most of.

        Of a network with several widths or bits the mean over all settings.
        """
        name = self.task.main.name
        every = self.paths if self.over_paths else list(self.sizes.values())
        return float(sum(m.figures()[name] for m in every) / len(every))


@torch.inference_mode()
def evaluate(
    network: SwitchableNetwork,
    split: Split,
    sizes: Sequence[int] | None = None,
    *,
    ensemble: Callable[[list[Tensor]], Tensor] | None = None,
    batch: int = 64,
    workers: int = 2,
    device: torch.device | str = "cpu",
    unreadable: UnreadableLog | None = None,
    log: Callable[[str], None] = lambda line: None,
    tick: Tick = lambda images: None,
    each: Each | None = None,
    group: ProcessGroup = ALONE,
    variant: Variant | None = None,
) -> Evaluation:
    """Run a split at every size; each image is decoded once for all sizes.

    Of several processes each takes whole batches of its own; all return what was measured on the
    whole split.

    Args:
        network: put into evaluation mode; every module is put back into its own.
        sizes: in pixels, trained or not; None means the trained ones.
        ensemble: makes one output of the S outputs of all paths, in one shape (`Task.together`),
            to be counted too; `sizes` must be None.
        unreadable: where to count unreadable images; None counts afresh.
        log: gets the names of unreadable images.
        tick: gets the number of images done after each batch, of one of every process.
        each: gets every batch of this process at every size: outputs float32, labels, and
            positions in the split (N,) int64.
        group: the processes that share the batches.
        variant: of the settings to measure; None: the costliest; without an `ensemble`.
    Raises:
        DataError: more than 1 % of the images are unreadable, or all.
    """
    sizes = tuple(dict.fromkeys(sizes or network.resolutions))
    task = by_name(network.spec.task)
    result = Evaluation(task, {size: task.metric() for size in sizes})
    if unreadable is not None:
        result.unreadable = unreadable
    if ensemble is not None:
        result.ensemble = task.metric()
        result.paths = [task.metric() for _ in network.settings]
        result.over_paths = network.spec.several
    with evaluation_mode(network), network.weights_quantized_once():
        batches = evaluation_batches(split, sizes, batch, workers, task, group.rank, group.world)
        for cut in _rounds(batches, -(-len(split) // (batch * group.world))):
            bad = [] if cut is None else cut.unreadable
            images, lost = group.sum(0 if cut is None else len(cut.labels), len(bad))
            if lost and group.world > 1:
                bad = [(a, b) for part in group.gather(bad) for a, b in part]
            result.unreadable.add(bad, log)
            result.unreadable.check(len(split))
            if cut is not None and len(cut.labels):
                outputs, every = _outputs(network, cut, sizes, device, bool(result.paths), variant)
                labels = cut.labels.to(device)
                if ensemble is not None and result.ensemble is not None:
                    result.ensemble.add(ensemble(task.together(every)), labels)
                for metric, output in zip(result.paths, every, strict=True):
                    metric.add(output, labels)
                for size, output in zip(sizes, outputs, strict=True):
                    result.sizes[size].add(output, labels)
                    if each is not None:
                        each(size, output, labels, cut.indices)
            if images:
                tick(int(images))
    _merge(group, [*result.sizes.values(), *result.paths, result.ensemble])
    if next(iter(result.sizes.values())).samples == 0:
        raise DataError(
            f"evaluate: none of the {len(split)} images is readable; name another data set with "
            "`data=DIR`"
        )
    return result


def _outputs(
    network: SwitchableNetwork,
    cut: Batch,
    sizes: Sequence[int],
    device: torch.device | str,
    paths: bool,
    variant: Variant | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """What a network gives for a batch at each size; and of every path, if those are asked for."""
    mean, std = network.spec.mean, network.spec.std
    inputs = [normalise(images.to(device), mean, std).to(network.dtype) for images in cut.images]
    if not paths:
        outputs, chosen = [], variant or network.variants[0]
        for size, x in zip(sizes, inputs, strict=True):
            # A task may have rectangles for a size, which alone would mean another one.
            with network.at(size, chosen.bits, chosen.width):
                outputs.append(network(x).float())
        return outputs, []
    every = []
    for row, setting in enumerate(network.settings):
        with network.active.at_row(row):
            every.append(network(inputs[sizes.index(setting.size)]).float())
    # The first path of a size is the one that is used for it.
    return [every[network.active.blend(size).i] for size in sizes], every


def _rounds(batches: Batches, rounds: int) -> Iterator[Batch | None]:
    """The batches, and None for those that other processes have more."""
    yield from batches
    yield from [None] * (rounds - len(batches))


def _merge(group: ProcessGroup, metrics: Sequence[Metric | None]) -> None:
    """Have every metric count what those of all processes have counted."""
    if group.world == 1:
        return
    for metric in metrics:
        if metric is not None:
            for rank, sums in enumerate(group.gather(metric.sums())):
                if rank != group.rank:
                    metric.add_sums(sums)
