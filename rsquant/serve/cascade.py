"""Small sizes first, larger ones only for images that the small ones are not sure of.

A stage decides where the probability of its likeliest class reaches its threshold; the last decides
always. Features are not shared between sizes, so an image that goes through several stages costs
their sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import ConfigError, ModelError
from rsquant.packed.cascade import MAX_POINTS, CascadeSpec, StageSpec, fingerprint
from rsquant.packed.file import opened
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.ops.base import as_json
from rsquant.packed.plan import CASCADE
from rsquant.packed.program import madds as program_madds
from rsquant.runtime import Session
from rsquant.serve.network import Network

# Thresholds that are tried for a stage, as quantiles of its confidences.
_STEPS = 40
_MOST_STAGES = 3


@dataclass(frozen=True)
class Point:
    """A cascade on some images: their top-1, 0 to 1, and what an image cost on average."""

    stages: tuple[StageSpec, ...]
    top1: float
    cost: float


@dataclass(frozen=True)
class Cascade:
    """A cascade, and the network that it was fitted for."""

    spec: CascadeSpec

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        return self.spec.stages

    def check(self, network: Network) -> None:
        """Raise ConfigError unless it was fitted for this network."""
        if not isinstance(network, Session):
            raise ConfigError("cascade: belongs to a packed file; pack the network first")
        if fingerprint(network.packed.tensors) != self.spec.model:
            raise ConfigError(
                f"cascade: was fitted for another network than {network.packed.path}; fit it "
                "again, on this one's predictions"
            )


def stored_cascade(network: Network) -> Cascade:
    """The cascade in a packed file.

    Raises:
        ConfigError: there is none, it is another network's, or the network is no packed file.
    """
    if not isinstance(network, Session):
        raise ConfigError("cascade: belongs to a packed file; pack the network first")
    spec = network.packed.plan.cascade
    if spec is None:
        raise ConfigError(
            f"cascade: {network.packed.path} has none; fit one with 'rsquant eval' and `cascade`"
        )
    found = Cascade(spec)
    found.check(network)
    return found


def run(
    stages: Sequence[StageSpec],
    confidence: Mapping[int, NDArray[np.floating]],
    correct: Mapping[int, NDArray[np.bool_]],
    cost: Mapping[int, float],
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """What a cascade does to images whose predictions at every size are known.

    Args:
        confidence: size -> (N,) probability of the likeliest class.
        correct: size -> (N,) whether that is the label.
        cost: size -> of one image.
    Returns:
        (N,) each: right or not, cost, and the size that decided.
    """
    first = stages[0].resolution
    waiting = np.ones(len(correct[first]), bool)
    right = np.zeros(len(waiting), bool)
    spent = np.zeros(len(waiting))
    decided = np.zeros(len(waiting), np.int64)
    for stage in stages:
        size = stage.resolution
        spent[waiting] += cost[size]
        sure = waiting.copy()
        if stage.threshold is not None:
            sure &= confidence[size] >= stage.threshold
        right[sure], decided[sure] = correct[size][sure], size
        waiting &= ~sure
    return right, spent, decided


def fit(
    confidence: Mapping[int, NDArray[np.floating]],
    correct: Mapping[int, NDArray[np.bool_]],
    cost: Mapping[int, float],
) -> list[Point]:
    """The best cascades of up to three stages: no other one is both cheaper and better.

    All sets of sizes and, for each stage, 40 thresholds are tried.

    Args: see `run`.
    Returns:
        points, ascending in cost and top-1; single sizes among them.
    """
    sizes = sorted(correct)
    points: list[Point] = []
    for count in range(1, min(_MOST_STAGES, len(sizes)) + 1):
        for chosen in itertools.combinations(sizes, count):
            points += _thresholds(chosen, confidence, correct, cost)
    return front(points)


def _thresholds(
    sizes: tuple[int, ...],
    confidence: Mapping[int, NDArray[np.floating]],
    correct: Mapping[int, NDArray[np.bool_]],
    cost: Mapping[int, float],
) -> list[Point]:
    """Every combination of thresholds of some sizes, without what the best of them dominate."""
    last = correct[sizes[-1]].astype(np.float64)
    right, spent = last[None], np.full((1, len(last)), cost[sizes[-1]])
    found: list[tuple[float, ...]] = [()]
    for size in reversed(sizes[:-1]):
        grid = np.unique(np.quantile(confidence[size], np.linspace(0, 1, _STEPS + 1)[1:]))
        sure = confidence[size] >= grid[:, None]
        own = correct[size].astype(np.float64)
        right = np.where(sure[:, None], own, right[None]).reshape(-1, len(last))
        spent = (cost[size] + np.where(sure[:, None], 0.0, spent[None])).reshape(-1, len(last))
        found = [(float(t), *rest) for t in grid for rest in found]
    points = [
        Point(tuple(map(StageSpec, sizes, (*thresholds, None))), float(top1), float(price))
        for thresholds, top1, price in zip(found, right.mean(1), spent.mean(1), strict=True)
    ]
    return front(points)


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other one beats in both, ascending."""
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda point: (point.cost, -point.top1)):
        if point.top1 > best:
            kept.append(point)
            best = point.top1
    return kept


def choose(points: Sequence[Point], top1: float | None = None, cost: float | None = None) -> Point:
    """The cheapest point of at least a top-1, or the best one of at most a cost.

    Raises:
        ModelError: there is none.
    """
    if top1 is not None:
        fitting = [point for point in points if point.top1 >= top1]
        wanted = f"a top-1 of {top1:.1%}"
    else:
        assert cost is not None
        fitting = [point for point in reversed(points) if point.cost <= cost]
        wanted = f"at most {cost / 1e6:.2f} M multiply-adds an image"
    if not fitting:
        raise ModelError(
            f"cascade: none reaches {wanted}; points go from {_said(points[0])} to "
            f"{_said(points[-1])}"
        )
    return fitting[0]


def _said(point: Point) -> str:
    return f"{point.top1:.1%} at {point.cost / 1e6:.2f} M"


def costs(session: Session) -> dict[int, float]:
    """Size -> multiply-adds of an image."""
    return {size: float(program_madds(session.program(size))) for size in session.resolutions}


def store(
    path: Path,
    point: Point,
    curve: Sequence[Point],
    data: str,
    images: int,
    fitted_for: int | None = None,
) -> Cascade:
    """Write a cascade into a packed file, in the place of one that is there.

    The network in it stays as it is, to the bit; the file is whole at every moment.

    Args:
        fitted_for: fingerprint of the network that was measured; None: the file's.
    Raises:
        ModelError: another network lies there by now.
    """
    path = Path(path).resolve()
    tensors, metadata = read_packed(path)
    model = fingerprint(opened(path, tensors, metadata).tensors)
    if fitted_for not in (None, model):
        raise ModelError(f"cascade: {path} was replaced while it was measured; run it again")
    shown = curve[:: max(1, -(-len(curve) // MAX_POINTS))]
    spec = CascadeSpec(
        point.stages,
        model,
        data[:500],
        images,
        point.top1,
        point.cost,
        tuple((p.cost, p.top1) for p in shown),
    )
    metadata = {**metadata, "version": max(CASCADE, metadata["version"])}
    metadata["cascade"] = as_json(spec)
    opened(path, tensors, metadata)
    write_packed(path, tensors, metadata)
    return Cascade(spec)
