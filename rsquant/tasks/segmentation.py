"""A class for each pixel of an image.

In training a part of the image and of its labels is cut out together, flipped and resized to a
square of each size; labels to the largest by their nearest pixels. In evaluation the whole image is
resized to a square, and the logits to the labels' own size before the best class is taken.

Source: RS-Nets (arXiv 2007.09558), appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rsquant.data.samples import Augmentation, Sample
from rsquant.data.split import IGNORED, Source
from rsquant.data.transforms import RATIO, crop_box, resize
from rsquant.errors import DataError
from rsquant.tasks.base import CountedClasses, Figure, Task


@dataclass
class Overlap(CountedClasses):
    """Counts pixels by their class and the predicted one; ignored pixels count nowhere.

    Attributes:
        confusion: (C, C) int64 on the CPU: pixels of class i (row) that are taken for class j;
            None before the first batch.
    """

    loss_sum: float = 0.0
    samples: int = 0
    confusion: Tensor | None = field(default=None, compare=False, repr=False)

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (N, C, h, w) float32, labels (N, H, W) of any integers."""
        classes = outputs.shape[1]
        outputs = resized(outputs, labels.shape[-2:])
        self.loss_sum += float(SEGMENTATION.loss(outputs, labels)) * len(labels)
        self.samples += len(labels)
        known = labels != IGNORED
        pairs = labels[known].long() * classes + outputs.argmax(1)[known]
        counts = torch.bincount(pairs, minlength=classes**2).cpu().view(classes, classes)
        self.confusion = counts if self.confusion is None else self.confusion + counts

    def of_classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """(C,) float64 each: pixels, accuracy and intersection over union, shares of 1.

        The last two are NaN for a class without pixels; the last not where some are taken for it.
        """
        if self.confusion is None:
            empty = torch.zeros(0, dtype=torch.float64)
            return empty, empty, empty
        counts = self.confusion.double()
        right, truth, told = counts.diagonal(), counts.sum(1), counts.sum(0)
        return truth, right / truth, right / (truth + told - right)

    def figures(self) -> dict[str, float]:
        truth, accuracy, iou = self.of_classes()
        pixels = float(truth.sum())
        right = 0.0 if self.confusion is None else float(self.confusion.diagonal().sum())
        return {
            "miou": 100 * _mean(iou),
            "pixels": 100 * right / max(1.0, pixels),
            "mean_accuracy": 100 * _mean(accuracy),
            "loss": self.loss_sum / max(1, self.samples),
        }

    @property
    def note(self) -> str:
        if self.confusion is None or self.confusion.any():
            return ""
        return "all pixels of the labels are ignored, so every figure is 0 and says nothing"

    def by_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each class its pixels, IoU and accuracy in percent; None where it does not occur."""
        truth, accuracy, iou = (values.tolist() for values in self.of_classes())
        return [
            {"class": name, "samples": int(n), "iou": _percent(i), "accuracy": _percent(a)}
            for name, n, a, i in zip(classes, truth, accuracy, iou, strict=False)
        ]


def _mean(values: Tensor) -> float:
    """The mean of those that are numbers; 0 where none is."""
    numbers = values[~values.isnan()]
    return float(numbers.mean()) if len(numbers) else 0.0


def _percent(share: float) -> float | None:
    return None if share != share else 100 * share


class Segmentation(Task):
    """Labels are maps of positions in `Source.classes`, or IGNORED; outputs are maps of logits.

    Args:
        weights: of each class in the loss: (classes,) float32, on the outputs' device; None: 1.
        smoothing: share of a label that the loss spreads over all classes, 0 to 1.
    """

    outputs = "logits (N, classes, H, W)"
    figures = (
        Figure("miou", "mean IoU", "%"),
        Figure("pixels", "pixel accuracy", "%"),
        Figure("mean_accuracy", "mean accuracy", "%"),
        Figure("loss", "loss", decimals=4),
    )
    class_figure = Figure("iou", "IoU", "%", 1)
    samples_name = "pixels"
    one_crop = True
    loss_name = "segmentation"
    prediction_name = "pixel"

    def __init__(self, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        self.weights, self.smoothing = weights, smoothing

    def open_source(
        self,
        spec: str,
        seed: int = 0,
        train_images: int | None = None,
        val_images: int | None = None,
    ) -> Source:
        from rsquant.data.map_sets import open_maps

        return open_maps(spec, train_images, val_images)

    def check_source(self, source: Source, smallest: int) -> Tensor | None:
        from rsquant.data.checked_maps import CheckedMaps

        counts = [
            split.check(smallest) if isinstance(split, CheckedMaps) else None
            for split in (source.train, source.val)
        ]
        return counts[0]

    def decoded_side(self, sizes: Sequence[int], augmentation: Augmentation) -> int | None:
        return None  # the labels would no longer fit

    def training_sample(
        self,
        image: Tensor,
        label: Any,
        sizes: Sequence[int],
        rng: np.random.Generator,
        augmentation: Augmentation,
    ) -> Sample:
        _check_size(image, label)
        rows, columns = label.shape
        top, left, height, width = crop_box(rows, columns, rng, augmentation.area, RATIO)
        image = image[:, top : top + height, left : left + width]
        label = label[top : top + height, left : left + width]
        if augmentation.flip and rng.random() < 0.5:
            image, label = image.flip(2), label.flip(1)
        side = max(sizes)
        return [resize(image, size, size) for size in sizes], nearest(label, side, side)

    def evaluation_sample(self, image: Tensor, label: Any, sizes: Sequence[int]) -> Sample:
        _check_size(image, label)
        return [resize(image, size, size) for size in sizes], label

    def num_classes(self, output: object) -> int | None:
        fits = isinstance(output, Tensor) and output.dim() == 4
        return int(output.shape[1]) if fits else None  # type: ignore[attr-defined]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy in nats of the logits at the labels' size.

        The mean over the known pixels of each image, and then over the images: so parts of a batch
        add up to the whole. An image without a known pixel counts 0.

        Args:
            outputs: (N, C, h, w). labels: (N, H, W) of any integers, IGNORED where unknown.
        """
        labels = labels.long()
        each = functional.cross_entropy(
            resized(outputs, labels.shape[-2:]),
            labels,
            self.weights,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        known = (labels != IGNORED).sum((1, 2)).clamp_min(1)
        return (each.sum((1, 2)) / known).mean()

    def weighted(self, weights: Tensor) -> Segmentation:
        return Segmentation(weights, self.smoothing)

    def smoothed(self, share: float) -> Segmentation:
        return Segmentation(self.weights, share)

    def together(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """All at the largest one's size."""
        return [resized(one, outputs[0].shape[-2:]) for one in outputs]

    def together_with(self, outputs: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """All at the labels' size, which is that of the largest images."""
        return [resized(one, labels.shape[-2:]) for one in outputs]

    def masks(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return resized(outputs, labels.shape[-2:]).argmax(1).to(torch.uint8)

    def metric(self) -> Overlap:
        return Overlap()

    def step_figures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor | float]:
        """Pixel accuracy at the outputs' own size, which is cheaper."""
        labels = nearest(labels, *outputs.shape[-2:])
        known = labels != IGNORED
        right = (outputs.argmax(1) == labels) & known
        return {"pixels": 100.0 * right.sum().double() / known.sum().clamp_min(1)}


def resized(outputs: Tensor, size: Sequence[int]) -> Tensor:
    """Maps of logits at another size, bilinear; those that have it are returned as they are."""
    size = tuple(size)
    if tuple(outputs.shape[-2:]) == size:
        return outputs
    return functional.interpolate(outputs, size, mode="bilinear", align_corners=False)


def nearest(labels: Tensor, height: int, width: int) -> Tensor:
    """Maps of classes (..., H, W) at another size: of each pixel the one under its centre."""
    rows, columns = (
        ((torch.arange(out, device=labels.device) + 0.5) * (side / out)).long()
        for side, out in zip(labels.shape[-2:], (height, width), strict=True)
    )
    return labels[..., rows[:, None], columns]


def _check_size(image: Tensor, label: Tensor) -> None:
    if image.shape[1:] != label.shape:
        (height, width), (rows, columns) = image.shape[1:], label.shape
        raise DataError(
            f"its labels are {columns}x{rows} pixels, and the image {width}x{height}; both must "
            "have one size"
        )


SEGMENTATION = Segmentation()
