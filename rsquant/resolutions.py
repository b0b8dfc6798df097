"""Which rows of a table with one row per trained size belong to a size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rsquant.errors import ModelError


def checked_sizes(resolutions: object) -> tuple[int, ...]:
    """Sizes in pixels as a user gave them: a tuple of whole numbers, in the same order.

    Raises:
        ModelError: a string, one number, or anything but whole numbers.
    """
    if isinstance(resolutions, (str, bytes)) or not isinstance(resolutions, Iterable):
        hint = "(64, 32)"
        if isinstance(resolutions, str):
            parts = [part.strip() for part in resolutions.split(",")]
            hint = f"({', '.join(parts)},)" if all(p.isdecimal() for p in parts) else hint
        elif isinstance(resolutions, int):
            hint = f"({resolutions},)"
        raise ModelError(
            f"resolutions: must be a sequence of sizes in pixels, got {resolutions!r}; pass {hint}"
        )
    sizes = tuple(resolutions)
    try:
        # A whole float or a number of numpy is a size; a half pixel or a string is not.
        if any(isinstance(size, str) or int(size) != size for size in sizes):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ModelError(
            f"resolutions: must be whole numbers of pixels, got {sizes}; pass for example (64, 32)"
        ) from None
    return tuple(int(size) for size in sizes)


def blend(trained: Sequence[int], size: float) -> tuple[int, int, float]:
    """Rows (i, j) and j's weight in 0 .. 1: value = (1 - weight) row_i + weight row_j.

    A trained size is its own row, weight 0; a size between two blends them linearly; a size
    outside the range takes the nearest end. Where several rows have the size, the first counts.

    Args:
        trained: sizes in pixels, largest first, all different or all the same.
        size: side in pixels.
    Source: RS-Nets (arXiv 2007.09558), section 4.3.
    """
    if size >= trained[0]:
        return 0, 0, 0.0
    if size <= trained[-1]:
        row = trained.index(trained[-1])
        return row, row, 0.0
    lower = next(i for i, one in enumerate(trained) if one <= size)
    if trained[lower] == size:
        return lower, lower, 0.0
    upper = lower - 1
    return upper, lower, (trained[upper] - size) / (trained[upper] - trained[lower])


def side(height: int, width: int) -> float:
    """Side in pixels of the square with the area of an image."""
    return float(height) if height == width else math.sqrt(height * width)


def path_names(resolutions: Sequence[int]) -> list[str]:
    """A name for each path of a network: its size; of several at one size 64, 64_path2, ..."""
    if len(set(resolutions)) == len(resolutions):
        return [str(size) for size in resolutions]
    return [
        str(size) if path == 1 else f"{size}_path{path}"
        for path, size in enumerate(resolutions, start=1)
    ]
