"""Images to measure and to calibrate on: the run's own where they can be had, else generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rsquant.config import load_yaml
from rsquant.data.identity import changed
from rsquant.data.images import UnreadableImage
from rsquant.data.loader import Batch, evaluation_batches
from rsquant.data.samples import UNLABELLED, Samples
from rsquant.data.sources import GENERATED, open_source
from rsquant.data.split import Source, Split
from rsquant.data.transforms import normalise
from rsquant.errors import DataError, RsquantError
from rsquant.nn.switchable import ModelSpec
from rsquant.runs import CONFIG, Checkpoint
from rsquant.tasks import DEFAULT, Task, by_name
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.tasks.run_source import open_run_source

_BATCH = 16


@dataclass(frozen=True)
class Images:
    """The same images at several resolutions.

    Attributes:
        at: resolution -> (N, 3, R, R) float32, normalised.
        source: what they are, for the user.
        kind: the same without the reason why they are no others.
        labels: (N, ...), as the task has them; None where those are not the network's.
    """

    at: dict[int, Tensor]
    source: str
    kind: str = ""
    labels: Tensor | None = None


@dataclass(frozen=True)
class Found:
    """A source of images.

    Attributes:
        kind: what they are; to be put behind their number.
        why: they are generated, and why, in brackets; "" for images of a data set or no reason.
        generated: they are no images of a data set.
    """

    source: Source
    kind: str
    why: str = ""
    generated: bool = False

    @property
    def what(self) -> str:
        """`kind` and `why`, for the user."""
        return self.kind + self.why


def validation_source(
    checkpoint: Checkpoint | None,
    count: int,
    data: str | None = None,
    task: Task = CLASSIFICATION,
) -> Found:
    """The data of a checkpoint's run, another source, or generated images.

    Args:
        checkpoint: None generates images.
        count: how many, evenly over the classes.
        data: another source than the run's, which the task opens.
    Raises:
        DataError: `data` cannot be opened. A run's own data that cannot be opened is replaced by
            generated images, and `what` says so and why.
    """
    return _find(checkpoint, data, "validation images", task, val=count)


def _find(
    checkpoint: Checkpoint | None,
    data: str | None,
    kind: str,
    task: Task,
    train: int = 1,
    val: int = 1,
) -> Found:
    """So many images of a source, at least one of each split: the generated set draws them all."""
    if data is not None:
        source = task.open_source(data, train_images=train, val_images=val)
        return Found(source, f"{kind} of {source.name}")
    why = ""
    if checkpoint is not None:
        try:
            source, note = _source_of_run(checkpoint, train, val)
            return Found(source, f"{kind} of {source.name}{note}")
        except RsquantError as error:
            why = f" ({error})"
    source = open_source(GENERATED, train_images=train, val_images=val)
    return Found(source, "generated images", why, generated=True)


def validation_images(
    spec: ModelSpec,
    resolutions: Sequence[int],
    count: int,
    checkpoint: Checkpoint | None = None,
    data: str | None = None,
) -> Images:
    """Validation images of `validation_source`, at several resolutions.

    Args:
        spec: for the normalisation.
        count, checkpoint, data: see there.
    Raises:
        DataError: `data` cannot be opened, or none of the images can be read.
    """
    found = validation_source(checkpoint, count, data, by_name(spec.task))
    return _cut(found.source.val, found, spec, resolutions)


def calibration_images(
    spec: ModelSpec,
    resolutions: Sequence[int],
    count: int,
    checkpoint: Checkpoint | None = None,
    data: str | None = None,
) -> Images:
    """Training images, cut as validation images are: what activations will look like.

    Args:
        spec, count, checkpoint, data: as in `validation_images`.
    Raises:
        DataError: `data` cannot be opened, or none of the images can be read.
    """
    found = _find(checkpoint, data, "training images", by_name(spec.task), train=count)
    return _cut(found.source.train, found, spec, resolutions)


def pictures(
    count: int,
    checkpoint: Checkpoint | None = None,
    data: str | None = None,
    task: Task = CLASSIFICATION,
) -> tuple[Tensor, ...]:
    """Validation images as they are, (3, H, W) uint8; unreadable ones are left out."""
    split = validation_source(checkpoint, count, data, task).source.val
    found = []
    for i in range(len(split)):
        with suppress(UnreadableImage):
            found.append(split.image(i))
    return tuple(found)


def batches(
    split: Split, found: Found, spec: ModelSpec, resolutions: Sequence[int]
) -> Iterator[Batch]:
    """The readable images of a split of `found`, cut at each size, in batches of 16.

    Args:
        spec: of the network that is measured; see `samples_for`.
    Raises:
        DataError: after the last image, if none of them could be read.
    """
    seen = 0
    for batch in evaluation_batches(split, resolutions, _BATCH, 0, samples_for(spec, found)):
        seen += len(batch.labels)
        yield batch
    if not seen:
        name, total = found.source.name, len(split)
        raise DataError(
            f"data: none of the {total} images of {name} is readable; name another data set with "
            "`data=DIR`"
        )


def drawn_pictures() -> tuple[Tensor, ...]:
    """Smooth colours under noise, (3, H, W) uint8: one picture wide and one high."""
    rng = np.random.default_rng(0)
    drawn = []
    for height, width in ((301, 407), (260, 197)):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / (20 + 7 * c) + y / (31 - 5 * c)) for c in range(3)]
        values = 128 + 80 * np.stack(waves) + rng.normal(0, 12, (3, height, width))
        drawn.append(torch.from_numpy(values.clip(0, 255).astype(np.uint8)))
    return tuple(drawn)


def samples_for(spec: ModelSpec, found: Found) -> Samples:
    """How images are cut to measure files of a network on: squares, as its task has them if so."""
    task = by_name(spec.task)
    # Labels of generated images are classes.
    fit = task.squares and (spec.task == DEFAULT or not found.generated)
    return task if fit else UNLABELLED


def labels_fit(spec: ModelSpec, found: Found) -> bool:
    """Whether the images' labels are the network's."""
    if samples_for(spec, found) is UNLABELLED:
        return False
    if spec.classes:
        return spec.classes == found.source.classes
    return not found.generated and spec.num_classes == len(found.source.classes)


def _cut(split: Split, found: Found, spec: ModelSpec, resolutions: Sequence[int]) -> Images:
    parts: list[list[Tensor]] = [[] for _ in resolutions]
    labels: list[Tensor] = []
    for batch in batches(split, found, spec, resolutions):
        labels += batch.labels
        for part, images in zip(parts, batch.images, strict=True):
            part.append(normalise(images, spec.mean, spec.std))
    at = {r: torch.cat(part) for r, part in zip(resolutions, parts, strict=True)}
    known = torch.stack(labels) if labels_fit(spec, found) else None
    count = len(labels)
    return Images(at, f"{count} {found.what}", f"{count} {found.kind}", known)


def _source_of_run(checkpoint: Checkpoint, train: int, val: int) -> tuple[Source, str]:
    """The run's data set, and what to add to its name where it is no longer the same."""
    if checkpoint.run is None:
        raise DataError(f"{checkpoint.path} is not in a run folder, so its data set is not known")
    config = load_yaml(checkpoint.run / CONFIG)
    section = config.data

    def limited(count: int, limit: int | None) -> int:
        return count if limit is None else min(count, limit)

    source = open_run_source(
        config,
        train_images=limited(train, section.train_images),
        val_images=limited(val, section.val_images),
    )
    return source, ", changed since training" if changed(config, source) else ""
