"""Images to measure parity and to calibrate on: the run's own where they can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.data.loader import evaluation_batches
from rsquant.data.sources import Source, limited, open_source
from rsquant.data.transforms import normalise
from rsquant.errors import RsquantError
from rsquant.evaluate.report import source_of
from rsquant.nn.switchable import ModelSpec
from rsquant.runs import Checkpoint

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
        source = open_source(data)
        return _load(spec, source, resolutions, count, f"validation images of {source.name}")
    why = ""
    if checkpoint is not None:
        try:
            source = source_of(checkpoint)
            return _load(spec, source, resolutions, count, f"validation images of {source.name}")
        except RsquantError as error:
            why = f" ({error})"
    source = open_source(GENERATED, val_images=count)
    return _load(spec, source, resolutions, count, f"generated images{why}")


def _load(
    spec: ModelSpec, source: Source, resolutions: Sequence[int], count: int, what: str
) -> Images:
    parts: list[list[Tensor]] = [[] for _ in resolutions]
    for batch in evaluation_batches(limited(source.val, count), resolutions, 16, 0):
        for part, images in zip(parts, batch.images, strict=True):
            part.append(normalise(images, spec.mean, spec.std))
    at = {r: torch.cat(part) for r, part in zip(resolutions, parts, strict=True)}
    return Images(at, f"{len(at[resolutions[0]])} {what}")
