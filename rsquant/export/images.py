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


def validation_images(
    spec: ModelSpec,
    resolutions: Sequence[int],
    count: int,
    checkpoint: Checkpoint | None = None,
    data: str | None = None,
) -> Images:
    """Validation images of a checkpoint's run, of another source, or generated ones.

    Args:
        spec: for the normalisation.
        count: how many, evenly over the classes.
        checkpoint: None generates images.
        data: another source than the run's.
    Raises:
        DataError: `data` cannot be opened. A run's own data that cannot be opened is replaced by
            generated images, and `source` says so and why.
    """
    if data is not None:
        source = open_source(data, train_images=1, val_images=count)
        return _load(spec, source, resolutions, f"validation images of {source.name}")
    why = ""
    if checkpoint is not None:
        try:
            source = _source_of_run(checkpoint, count)
            return _load(spec, source, resolutions, f"validation images of {source.name}")
        except RsquantError as error:
            why = f" ({error})"
    source = open_source(GENERATED, train_images=1, val_images=count)
    return _load(spec, source, resolutions, f"generated images{why}")


def _source_of_run(checkpoint: Checkpoint, count: int) -> Source:
    if checkpoint.run is None:
        raise DataError(f"{checkpoint.path} lies in no run folder, so its data is not known")
    config = load_yaml(checkpoint.run / CONFIG)
    section = config.data
    limit = count if section.val_images is None else min(count, section.val_images)
    # One training image: the generated set draws all it is asked for.
    return open_source(section.source, config.train.seed, train_images=1, val_images=limit)


def _load(spec: ModelSpec, source: Source, resolutions: Sequence[int], what: str) -> Images:
    parts: list[list[Tensor]] = [[] for _ in resolutions]
    for batch in evaluation_batches(source.val, resolutions, 16, 0):
        for part, images in zip(parts, batch.images, strict=True):
            part.append(normalise(images, spec.mean, spec.std))
    at = {r: torch.cat(part) for r, part in zip(resolutions, parts, strict=True)}
    if not len(at[resolutions[0]]):
        raise DataError(f"data: none of the {len(source.val)} images of {source.name} is readable")
    return Images(at, f"{len(at[resolutions[0]])} {what}")
