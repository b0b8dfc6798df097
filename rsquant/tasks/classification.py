"""One class for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from rsquant.tasks.base import Figure, Metric, Task


@dataclass
class Accuracy(Metric):
    """Sums over images; the properties are percentages and a mean."""

    right1: int = 0
    right5: int = 0
    loss_sum: float = 0.0
    samples: int = 0

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, C) float32, labels (N,) int64."""
        best = outputs.topk(min(5, outputs.shape[1]), 1).indices == labels.unsqueeze(1)
        self.right1 += int(best[:, 0].sum())
        self.right5 += int(best.any(1).sum())
        self.loss_sum += float(functional.cross_entropy(outputs, labels, reduction="sum"))
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

    def figures(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}


class Classification(Task):
    """Labels are positions in `Source.classes`, outputs are logits (N, classes)."""

    figures = (
        Figure("top1", "top-1", "%"),
        Figure("top5", "top-5", "%"),
        Figure("loss", "loss", decimals=4),
    )
    loss_name = "classification"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy in nats."""
        return functional.cross_entropy(outputs, labels)

    def metric(self) -> Accuracy:
        return Accuracy()

    def step_figures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor | float]:
        # A tensor: nothing waits for the device.
        return {"top1": 100.0 * (outputs.argmax(1) == labels).float().mean().double()}


CLASSIFICATION = Classification()
