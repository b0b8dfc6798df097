"""Activation levels as integers times a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Squared, of float32 rounding in levels that are integers times a scale.
_EXACT = 1e-12
# Largest of the integers that stand for thresholds.
_MOST = 254
# Of the span of the levels: how far thresholds of more than two bits may be from their integers.
_NEAR = 0.004


@dataclass(frozen=True)
class Levels:
    """Integer levels, ascending, and what one is worth."""

    integers: tuple[int, ...]
    scale: float


def integer_levels(levels: NDArray[np.float32], limit: int) -> Levels:
    """The integer multiples of one scale that are nearest to levels, in their mean square.

    A network that was trained on a grid has such levels: then the smallest ones that are exact.
    Levels of two bits keep their two equal steps.

    Args:
        levels: (L,) ascending, with values on one side of zero or both.
        limit: largest span of the integers, 1 or more.
    """
    exact = levels.astype(np.float64)
    span = float(exact[-1] - exact[0])
    size = float(np.square(exact).sum())
    best, least = Levels((0,) * len(exact), 1.0), np.inf
    if not span > float(np.finfo(np.float32).tiny):
        # One level; it is zero unless a basis was set by hand.
        value = float(exact[0])
        return Levels((int(np.sign(value)),) * len(exact), abs(value) or 1.0)
    for steps in range(1, limit + 1):
        # Of the scales that give this span, the one with the least error.
        integers = np.rint(exact * steps / span)
        if len(integers) == 4:
            # The two steps are rounded, and the level that is zero stays zero.
            low, high = np.rint((exact[1:3] - exact[0]) * steps / span)
            integers = np.array([0.0, low, high, low + high])
            integers -= integers[np.abs(exact).argmin()]
        norm = float(np.square(integers).sum())
        if not norm or np.ptp(integers) > limit or np.abs(integers).max() > 127:
            continue
        scale = float(integers @ exact) / norm
        error = float(np.square(exact - scale * integers).sum()) / size
        if scale > 0 and error < least:
            best, least = Levels(tuple(int(i) for i in integers), scale), error
        if least < _EXACT:
            break
    return best


def positions(thresholds: NDArray[np.float64], levels: Levels) -> tuple[NDArray[np.int_], float]:
    """Integers n_j, from 0, and a step o: threshold j is at about t_0 + o n_j.

    Halfway between levels of two bits, thresholds are equally far apart, and so n_j = j is exact.
    More bits take the thresholds of their integer levels, in steps of half a level. Thresholds that
    are not halfway are rounded to a share of their span.
    """
    if len(thresholds) < 2:
        return np.zeros(len(thresholds), int), abs(float(thresholds.sum())) or 1.0
    gaps = np.diff(thresholds)
    if np.ptp(gaps) <= 1e-5 * gaps.max():
        count = len(thresholds)
        step = float(thresholds[-1] - thresholds[0]) / (count - 1)
        if step > 0:
            return np.arange(count), step
        return np.zeros(count, int), 1.0
    from_first = thresholds - thresholds[0]
    step = levels.scale / 2
    halves = np.rint(from_first / step).clip(0, _MOST)
    near = _NEAR * levels.scale * float(np.ptp(levels.integers))
    if np.abs(halves * step - from_first).max() <= near:
        return halves.astype(int), step
    steps = from_first[-1] / np.arange(1, _MOST + 1)
    places = np.rint(from_first / steps[:, None])
    best = int(np.abs(places * steps[:, None] - from_first).max(1).argmin())
    return places[best].astype(int), float(steps[best])
