"""Samples of a split, cut and stacked to one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsquant.data.images import UnreadableImage
from rsquant.data.samples import Augmentation, Sample, Samples
from rsquant.data.slots import Slots
from rsquant.data.split import Split
from rsquant.errors import DataError


@dataclass
class Batch:
    """N images at S resolutions. N is smaller than asked for where images were unreadable.

    Attributes:
        images: S tensors (N, 3, R, R) uint8 channels_last, in the order asked for.
        labels: (N, ...), what the task makes of them; of whole images (N,) int64.
        unreadable: (name, reason) of the images left out.
        indices: (N,) int64, positions in the split.
    """

    images: list[Tensor]
    labels: Tensor
    unreadable: list[tuple[str, str]]
    indices: Tensor


@dataclass(frozen=True)
class TrainingCut:
    """A sample to train on; chance is of (seed, epoch, index) alone."""

    samples: Samples
    resolutions: tuple[int, ...]
    seed: int
    epoch: int
    augmentation: Augmentation

    def __call__(self, image: Tensor, label: Any, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return self.samples.training_sample(image, label, self.resolutions, rng, self.augmentation)


@dataclass(frozen=True)
class EvaluationCut:
    """A sample to evaluate on."""

    samples: Samples
    resolutions: tuple[int, ...]

    def __call__(self, image: Tensor, label: Any, index: int) -> Sample:
        return self.samples.evaluation_sample(image, label, self.resolutions)


@dataclass(frozen=True)
class Request:
    """The images of a batch, and the slot to write them to; None: to new memory."""

    indices: list[int]
    slot: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A batch as it comes from a worker.

    Attributes:
        batch: without images where they were written to the slot.
        slot: of the request.
        written: whether it was used.
    """

    batch: Batch
    slot: int | None
    written: bool


class Cropped(Dataset[Any]):
    """Turns a request into one batch, inside the worker.

    Attributes:
        slots: where batches can be written to; None: nowhere.
    """

    slots: Slots | None = None

    def __init__(
        self,
        split: Split,
        resolutions: Sequence[int],
        min_side: int | None,
        crop: Callable[[Tensor, Any, int], Sample],
    ) -> None:
        self.split, self.resolutions = split, tuple(resolutions)
        self.min_side, self.crop = min_side, crop

    def __getitems__(self, request: Request) -> Loaded | DataError:
        # An error that leaves a worker comes with its traceback as its message.
        try:
            return self._batch(request.indices, request.slot)
        except DataError as error:
            return error

    def _batch(self, indices: list[int], slot: int | None) -> Loaded:
        n = len(indices)
        written = slot is not None and self.slots is not None
        if slot is not None and self.slots is not None:
            images = self.slots.write(slot, n)
        else:
            images = [_empty(n, (3, r, r)) for r in self.resolutions]
        labels: list[Tensor] = []
        kept: list[int] = []
        unreadable = []
        for index in indices:
            try:
                image, label = self.split.image(index, self.min_side), self.split.label(index)
            except UnreadableImage as error:
                unreadable.append((self.split.name(index), error.reason))
                continue
            try:
                cropped, label = self.crop(image, label, index)
            except DataError as error:
                raise DataError(f"data: {self.split.name(index)}: {error}") from error
            labels.append(torch.as_tensor(label))
            if not kept and any(
                out.shape[1:] != part.shape for out, part in zip(images, cropped, strict=True)
            ):  # a task may have others than squares
                images, written = [_empty(n, part.shape) for part in cropped], False
            self._check_alike(images, cropped, labels, index, kept)
            for out, part in zip(images, cropped, strict=True):
                out[len(kept)] = part
            kept.append(index)
        if written:
            images = []
        elif len(kept) < n:
            images = [out[: len(kept)].clone() for out in images]
        stacked = torch.stack(labels) if labels else torch.empty(0, dtype=torch.int64)
        batch = Batch(images, stacked, unreadable, torch.tensor(kept, dtype=torch.int64))
        return Loaded(batch, slot, written)

    def _check_alike(
        self,
        images: list[Tensor],
        cropped: list[Tensor],
        labels: list[Tensor],
        index: int,
        kept: list[int],
    ) -> None:
        """Raise DataError where a sample does not have the shapes of the batch's first one."""
        first = [*(tuple(out.shape[1:]) for out in images), tuple(labels[0].shape)]
        shapes = [*(tuple(part.shape) for part in cropped), tuple(labels[-1].shape)]
        for wanted, got in zip(first, shapes, strict=True):
            if wanted != got:
                raise DataError(
                    f"data: {self.split.name(index)} becomes {got} and "
                    f"{self.split.name(kept[0])} {wanted}, but all samples of a batch must "
                    "have the same shape; use `batch=1`, or images and labels of one size"
                )


def _empty(n: int, shape: Sequence[int]) -> Tensor:
    return torch.empty((n, *shape), dtype=torch.uint8, memory_format=torch.channels_last)
