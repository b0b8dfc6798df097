"""Images to measure parity and to calibrate on: the run's own where they can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.config import load_yaml
from rsquant.data.loader import evaluation_batches
from rsquant.data.sources import open_source
from rsquant.data.split import Source
from rsquant.data.transforms import normalise
from rsquant.errors import DataError, RsquantError
from rsquant.nn.switchable import ModelSpec
from rsquant.runs import CONFIG, Checkpoint

GENERATED = "shapes"


@dataclass(frozen=True)
class Images:
    """The same images at several resolutions.

    Attributes:
        at: resolution -> (N, 3, R, R) float32, normalised.
        source: what they are, for the user.
    """

    at: dict[int, Tensor]
    source: str


@dataclass(frozen=True)
class Validation:
    """A source whose validation images to use.

    Attributes:
        what: what they are, for the user; to be put behind their number.
        generated: they are no images of a data set.
    """

    source: Source
    what: str
    generated: bool = False


def validation_source(
    checkpoint: Checkpoint | None, count: int, data: str | None = None
) -> Validation:
    """The data of a checkpoint's run, another source, or generated images.

    Args:
        checkpoint: None generates images.
        count: how many, evenly over the classes.
        data: another source than the run's.
    Raises:
        DataError: `data` cannot be opened. A run's own data that cannot be opened is replaced by
            generated images, and `what` says so and why.
    """
    if data is not None:
        source = open_source(data, train_images=1, val_images=count)
        return Validation(source, f"validation images of {source.name}")
    why = ""
    if checkpoint is not None:
        try:
            source = _source_of_run(checkpoint, count)
            return Validation(source, f"validation images of {source.name}")
        except RsquantError as error:
            why = f" ({error})"
    source = open_source(GENERATED, train_images=1, val_images=count)
    return Validation(source, f"generated images{why}", generated=True)


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
    found = validation_source(checkpoint, count, data)
    parts: list[list[Tensor]] = [[] for _ in resolutions]
    for batch in evaluation_batches(found.source.val, resolutions, 16, 0):
        for part, images in zip(parts, batch.images, strict=True):
            part.append(normalise(images, spec.mean, spec.std))
    at = {r: torch.cat(part) for r, part in zip(resolutions, parts, strict=True)}
    if not len(at[resolutions[0]]):
        name, total = found.source.name, len(found.source.val)
        raise DataError(f"data: none of the {total} images of {name} is readable")
    return Images(at, f"{len(at[resolutions[0]])} {found.what}")


def _source_of_run(checkpoint: Checkpoint, count: int) -> Source:
    if checkpoint.run is None:
        raise DataError(f"{checkpoint.path} lies in no run folder, so its data is not known")
    config = load_yaml(checkpoint.run / CONFIG)
    section = config.data
    limit = count if section.val_images is None else min(count, section.val_images)
    # One training image: the generated set draws all it is asked for.
    return open_source(section.source, config.train.seed, train_images=1, val_images=limit)
