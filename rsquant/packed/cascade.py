"""What a packed file says of a cascade: sizes to try one after the other."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import FieldError, Fields

MAX_STAGES = 64
MAX_POINTS = 1000


@dataclass(frozen=True)
class StageSpec:
    """A size of a cascade.

    Attributes:
        threshold: the probability of the likeliest class from which on it decides; None: always,
            which the last stage does and no other.
    """

    resolution: int
    threshold: float | None


@dataclass(frozen=True)
class CascadeSpec:
    """Sizes to try one after the other, and what they were fitted on: see `rsquant.serve.cascade`.

    Attributes:
        stages: smallest first.
        model: fingerprint of the weights it was fitted for.
        data, images: what it was fitted on.
        top1: share of those images, 0 to 1. madds: of an image, on average.
        curve: (madds, top1) of the best cascades, ascending in both.
    """

    stages: tuple[StageSpec, ...]
    model: int
    data: str
    images: int
    top1: float
    madds: float
    curve: tuple[tuple[float, float], ...] = ()


def fingerprint(tensors: Mapping[str, NDArray[np.generic]]) -> int:
    """CRC-32 of the names and bytes of a network's tensors."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), zlib.crc32(name.encode(), crc))
    return crc


def read(fields: Fields, resolutions: Sequence[int]) -> CascadeSpec:
    """A cascade from a file's metadata.

    Raises:
        FieldError: naming what is missing, unknown or out of range.
    """
    stages = []
    for number, value in enumerate(fields.items("stages", 1, MAX_STAGES)):
        one = Fields(value, f"{fields.where}.stages[{number}]")
        stages.append(
            StageSpec(
                one.integer("resolution", 1, 2**16),
                one.real_or_none("threshold", 0.0),
            )
        )
        one.finish()
    curve = []
    for number, value in enumerate(fields.items("curve", 0, MAX_POINTS)):
        point = Fields({"point": value}, f"{fields.where}.curve[{number}]")
        madds, top1 = point.reals("point", 2, 2)
        curve.append((madds, top1))
    cascade = CascadeSpec(
        stages=tuple(stages),
        model=fields.integer("model", 0, 2**32 - 1),
        data=fields.text("data"),
        images=fields.integer("images", 1, 2**31 - 1),
        top1=fields.real("top1", 0.0),
        madds=fields.real("madds", 0.0),
        curve=tuple(curve),
    )
    fields.finish()
    shares = [cascade.top1, *(top1 for _, top1 in curve)]
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(curve))
    if not all(0 <= share <= 1 for share in shares) or not rising:
        raise FieldError(f"{fields.where}: 'top1' is a share of 0 to 1, and 'curve' ascends")
    check_stages(cascade.stages, resolutions, fields.where)
    return cascade


def check_stages(stages: Sequence[StageSpec], resolutions: Sequence[int], where: str) -> None:
    """Raise FieldError unless stages ascend, are the network's, and the last alone decides all."""
    sizes = [stage.resolution for stage in stages]
    if any(a >= b for a, b in itertools.pairwise(sizes)):
        raise FieldError(f"{where}: the sizes of its stages must ascend, got {sizes}")
    if unknown := [size for size in sizes if size not in resolutions]:
        raise FieldError(f"{where}: the network has no size {unknown[0]}")
    if any((stage.threshold is None) != (stage is stages[-1]) for stage in stages):
        raise FieldError(f"{where}: all stages but the last must have a threshold")
