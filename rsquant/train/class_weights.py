"""How much each class counts in the loss."""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor

from rsquant.data.images import UnreadableImage
from rsquant.data.split import IGNORED, Source
from rsquant.errors import ConfigError
from rsquant.text import brief, did_you_mean

NONE, BALANCED = "none", "balanced"


def check_class_weights(given: str) -> None:
    """Raise ConfigError unless `class_weights` can read it, as far as that shows without a set."""
    if given not in (NONE, BALANCED):
        _pairs(given)


def class_weights(given: str, source: Source, counts: Tensor | None = None) -> Tensor | None:
    """Weights of a set's classes.

    balanced: images / (classes * images of the class), so every class counts alike. A class without
    images has 0. The mean of all weights over the training images is 1, so that the loss keeps its
    size beside others. Where a label is a map of classes, pixels count in place of images.

    Args:
        given: none, balanced, or NAME=WEIGHT,NAME=WEIGHT; classes that are not named have 1.
        counts: (classes,) training images of each class, or pixels; None: all labels are read.
    Returns:
        (classes,) float32; None for none.
    Raises:
        ConfigError: another text, a class that the set does not have, a weight that is negative or
            not finite, labels that are neither one class for each image nor one for each pixel, or
            no label with a weight above 0.
    """
    if given == NONE:
        return None
    weights = _named(given, source)
    counts = (_counts(source, given) if counts is None else counts).float()
    if given == BALANCED:
        weights = counts.sum() / (len(counts) * counts.clamp(min=1)) * (counts > 0)
    mean = float((weights * counts).sum() / counts.sum())
    if not mean > 0:  # nan without labels
        raise ConfigError(
            "class_weights: no training label has a weight above 0; give one to a class that occurs"
        )
    return weights if given == BALANCED else weights / mean


def _named(given: str, source: Source) -> Tensor:
    """The weights as given; those of classes that are not named are 1."""
    weights = torch.ones(len(source.classes))
    for name, weight in _pairs(given).items() if given != BALANCED else ():
        if name not in source.classes:
            hint = did_you_mean(name, source.classes)
            raise ConfigError(f"class_weights: {source.name} has no class {brief(name)}; {hint}")
        weights[source.classes.index(name)] = weight
    return weights


def _counts(source: Source, given: str) -> Tensor:
    """Training images of each class, or pixels."""
    counts = torch.zeros(len(source.classes), dtype=torch.int64)
    labels = []
    for i in range(len(source.train)):
        with suppress(UnreadableImage):  # the loader counts these
            label = source.train.label(i)
            if isinstance(label, int):
                labels.append(label)
            elif _is_map(label):
                known = label[label != IGNORED].long()
                counts += torch.bincount(known, minlength=len(counts))
            else:
                raise ConfigError(
                    f"class_weights: {brief(given)} needs one class for each image or pixel; leave "
                    "it out"
                )
    return counts + torch.bincount(torch.tensor(labels).long(), minlength=len(counts))


def _is_map(label: object) -> bool:
    """Whether a label is a class for each pixel."""
    return isinstance(label, Tensor) and label.dim() == 2 and not label.is_floating_point()


def _pairs(given: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in given.split(","):
        name, equals, text = part.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not equals or not name or not 0 <= weight < 1e6 or name in found:
            raise ConfigError(
                f"class_weights: must be none, balanced or NAME=WEIGHT,... with each class once "
                f"and weights from 0, got {brief(part)}"
            )
        found[name] = weight
    return found
