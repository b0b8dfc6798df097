"""Top-1, top-5 and loss of a network at any list of sizes, and of the ensemble of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from rsquant.data.loader import UnreadableLog, evaluation_batches
from rsquant.data.split import Split
from rsquant.data.transforms import normalise
from rsquant.errors import DataError
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.switchable import SwitchableNetwork

Tick = Callable[[int], None]


@dataclass
class Accuracy:
    """Sums over images; the properties are percentages and a mean."""

    right1: int = 0
    right5: int = 0
    loss_sum: float = 0.0
    samples: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, C) float32, labels (N,) int64."""
        best = logits.topk(min(5, logits.shape[1]), 1).indices == labels.unsqueeze(1)
        self.right1 += int(best[:, 0].sum())
        self.right5 += int(best.any(1).sum())
        self.loss_sum += float(functional.cross_entropy(logits, labels, reduction="sum"))
        self.samples += len(labels)

    @property
    def top1(self) -> float:
        """Percent of images whose highest logit is the label's."""
        return 100.0 * self.right1 / max(1, self.samples)

    @property
    def top5(self) -> float:
        """Percent of images whose label is among the five highest logits."""
        return 100.0 * self.right5 / max(1, self.samples)

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return self.loss_sum / max(1, self.samples)


@dataclass
class Evaluation:
    """Accuracy by size in pixels, and of the ensemble if one was given.

    Attributes:
        paths: with an ensemble, of each path, in the order of `network.resolutions`.
    """

    sizes: dict[int, Accuracy]
    paths: list[Accuracy] = field(default_factory=list)
    ensemble: Accuracy | None = None
    unreadable: UnreadableLog = field(default_factory=UnreadableLog)


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
) -> Evaluation:
    """Run a split at every size; each image is decoded once for all sizes.

    Args:
        network: put into evaluation mode; every module is put back into its own.
        sizes: in pixels, trained or not; None means the trained ones.
        ensemble: makes one (N, classes) prediction of the S logits of all paths, to be counted
            too; `sizes` must be None.
        unreadable: where to count unreadable images; None counts afresh.
        log: gets the names of unreadable images.
        tick: gets the number of images done after each batch.
    Raises:
        DataError: more than 1 % of the images are unreadable, or all.
    """
    sizes = tuple(dict.fromkeys(sizes or network.resolutions))
    result = Evaluation({size: Accuracy() for size in sizes})
    if unreadable is not None:
        result.unreadable = unreadable
    paths: list[tuple[int, int]] = []
    if ensemble is not None:
        result.ensemble = Accuracy()
        paths = [(i, sizes.index(size)) for i, size in enumerate(network.resolutions)]
        result.paths = [Accuracy() for _ in paths]
    mean, std = network.spec.mean, network.spec.std
    with evaluation_mode(network), network.weights_quantized_once():
        for cut in evaluation_batches(split, sizes, batch, workers):
            result.unreadable.add(cut.unreadable, log)
            result.unreadable.check(len(split))
            labels = cut.labels.to(device)
            if len(labels) == 0:
                continue
            inputs = [
                normalise(images.to(device), mean, std).to(network.dtype) for images in cut.images
            ]
            if ensemble is None or result.ensemble is None:
                logits = [network(x).float() for x in inputs]
            else:
                every = []
                for path, index in paths:
                    with network.active.at_row(path):
                        every.append(network(inputs[index]).float())
                result.ensemble.add(ensemble(every), labels)
                for accuracy, z in zip(result.paths, every, strict=True):
                    accuracy.add(z, labels)
                # The first path of a size is the one that is used for it.
                logits = [every[network.resolutions.index(size)] for size in sizes]
            for size, z in zip(sizes, logits, strict=True):
                result.sizes[size].add(z, labels)
            tick(len(labels))
    if next(iter(result.sizes.values())).samples == 0:
        raise DataError("evaluate: the split has no readable image")
    return result
