"""One class for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rsquant.tasks.base import CountedClasses, Figure, Task

# A confusion matrix of so many classes has 32 MB.
MOST_CONFUSED = 2048


@dataclass
class Accuracy(CountedClasses):
    """Sums over images; the properties are percentages and a mean.

    Attributes:
        confusion: (C, C) int64 on the CPU: images of class i (row) whose highest logit is class
            j's; None before the first batch, and of more than MOST_CONFUSED classes.
    """

    right1: int = 0
    right5: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    confusion: Tensor | None = field(default=None, compare=False, repr=False)

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, C) float32, labels (N,) int64."""
        best = outputs.topk(min(5, outputs.shape[1]), 1).indices
        right = best == labels.unsqueeze(1)
        self.right1 += int(right[:, 0].sum())
        self.right5 += int(right.any(1).sum())
        self.loss_sum += float(functional.cross_entropy(outputs, labels, reduction="sum"))
        self.samples += len(labels)
        classes = outputs.shape[1]
        if classes <= MOST_CONFUSED:
            if self.confusion is None:
                self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
            pairs = (labels * classes + best[:, 0]).cpu()
            self.confusion.view(-1).index_add_(0, pairs, torch.ones_like(pairs))

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

    def figures(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}

    def by_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each class its images and the share that is right (top1, %); None without images."""
        if self.confusion is None:
            return []
        images, right = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        return [
            {"class": name, "samples": n, "top1": 100 * r / n if n else None}
            for name, n, r in zip(classes, images, right, strict=True)
        ]


class Classification(Task):
    """Labels are positions in `Source.classes`, outputs are logits (N, classes).

    Args:
        weights: of each class in the loss: (classes,) float32, on the outputs' device; None: 1.
        smoothing: share of a label that the loss spreads over all classes, 0 to 1.
    """

    def __init__(self, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        self.weights, self.smoothing = weights, smoothing

    figures = (
        Figure("top1", "top-1", "%"),
        Figure("top5", "top-5", "%"),
        Figure("loss", "loss", decimals=4),
    )
    class_figure = Figure("top1", "top-1", "%", 1)
    most_confused = MOST_CONFUSED
    loss_name = "classification"
    whole_image_labels = True

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy in nats, each class's part times its weight: a mean over the images.

        It is divided by their number and not by the sum of their weights, so parts of a batch, and
        labels that are mixed, add up to the same.

        Args:
            labels: (N,) int64; or shares of classes, (N, classes) float.
        """
        total = functional.cross_entropy(
            outputs, labels, self.weights, reduction="sum", label_smoothing=self.smoothing
        )
        return total / len(labels)

    def weighted(self, weights: Tensor) -> Classification:
        return Classification(weights, self.smoothing)

    def smoothed(self, share: float) -> Classification:
        return Classification(self.weights, share)

    def predictions(
        self, outputs: Tensor, labels: Tensor, classes: Sequence[str]
    ) -> list[dict[str, Any]]:
        best = outputs.softmax(1).topk(min(5, outputs.shape[1]), 1)
        return [
            {
                "label": classes[label],
                "prediction": classes[order[0]],
                "probability": round(shares[0], 6),
                "right": label == order[0],
                "top5": [classes[i] for i in order],
            }
            for label, order, shares in zip(
                labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    def metric(self) -> Accuracy:
        return Accuracy()

    def step_figures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor | float]:
        best = outputs.argmax(1)
        # Of mixed labels: the share that the highest logit has.
        mixed = labels.is_floating_point()
        right = labels.gather(1, best.unsqueeze(1)) if mixed else (best == labels).float()
        # A tensor: nothing waits for the device.
        return {"top1": 100.0 * right.mean().double()}


CLASSIFICATION = Classification()
