"""What a task measures, at any list of sizes, and of the ensemble of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rsquant.data.loader import UnreadableLog, evaluation_batches
from rsquant.data.split import Split
from rsquant.data.transforms import normalise
from rsquant.errors import DataError
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.switchable import SwitchableNetwork
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
        paths: with an ensemble, of each path, in the order of `network.resolutions`.
    """

    task: Task
    sizes: dict[int, Any]
    paths: list[Any] = field(default_factory=list)
    ensemble: Metric | None = None
    unreadable: UnreadableLog = field(default_factory=UnreadableLog)

    @property
    def mean(self) -> float:
        """The task's main figure, the mean over the sizes: what the best checkpoint has most of."""
        name = self.task.main.name
        return float(sum(m.figures()[name] for m in self.sizes.values()) / len(self.sizes))


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
) -> Evaluation:
    """Run a split at every size; each image is decoded once for all sizes.

    Args:
        network: put into evaluation mode; every module is put back into its own.
        sizes: in pixels, trained or not; None means the trained ones.
        ensemble: makes one output of the S outputs of all paths, in one shape (`Task.together`),
            to be counted too; `sizes` must be None.
        unreadable: where to count unreadable images; None counts afresh.
        log: gets the names of unreadable images.
        tick: gets the number of images done after each batch.
        each: gets every batch at every size: outputs float32, labels, and positions in the split
            (N,) int64.
    Raises:
        DataError: more than 1 % of the images are unreadable, or all.
    """
    sizes = tuple(dict.fromkeys(sizes or network.resolutions))
    task = by_name(network.spec.task)
    result = Evaluation(task, {size: task.metric() for size in sizes})
    if unreadable is not None:
        result.unreadable = unreadable
    paths: list[tuple[int, int]] = []
    if ensemble is not None:
        result.ensemble = task.metric()
        paths = [(i, sizes.index(size)) for i, size in enumerate(network.resolutions)]
        result.paths = [task.metric() for _ in paths]
    mean, std = network.spec.mean, network.spec.std
    with evaluation_mode(network), network.weights_quantized_once():
        for cut in evaluation_batches(split, sizes, batch, workers, task):
            result.unreadable.add(cut.unreadable, log)
            result.unreadable.check(len(split))
            labels = cut.labels.to(device)
            if len(labels) == 0:
                continue
            inputs = [
                normalise(images.to(device), mean, std).to(network.dtype) for images in cut.images
            ]
            if ensemble is None or result.ensemble is None:
                outputs = []
                for size, x in zip(sizes, inputs, strict=True):
                    # A task may have rectangles for a size, which alone would mean another one.
                    with network.at(size):
                        outputs.append(network(x).float())
            else:
                every = []
                for path, index in paths:
                    with network.active.at_row(path):
                        every.append(network(inputs[index]).float())
                result.ensemble.add(ensemble(task.together(every)), labels)
                for metric, output in zip(result.paths, every, strict=True):
                    metric.add(output, labels)
                # The first path of a size is the one that is used for it.
                outputs = [every[network.resolutions.index(size)] for size in sizes]
            for size, output in zip(sizes, outputs, strict=True):
                result.sizes[size].add(output, labels)
                if each is not None:
                    each(size, output, labels, cut.indices)
            tick(len(labels))
    if next(iter(result.sizes.values())).samples == 0:
        raise DataError("evaluate: the split has no readable image")
    return result
