"""At which sizes a network runs, to say so about those at which it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsquant.errors import ModelError

# Sizes networks are made for.
COMMON = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 384, 448, 512)


def check_smallest(resolutions: Sequence[int], stride: int, who: str) -> None:
    """Raise ModelError if a resolution is smaller than the network's total stride."""
    if min(resolutions) < stride:
        raise ModelError(
            f"{who}: resolution {min(resolutions)} is smaller than the network's stride of "
            f"{stride} pixels; use {stride} or more"
        )


def advice(runs: Callable[[int], bool], refused: Sequence[int], runnable: Sequence[int]) -> str:
    """What to use instead of sizes at which a network does not run.

    Args:
        runs: whether the network runs at a size in pixels.
        refused, runnable: sizes known to fail (ascending), and to run.
    """
    tried: dict[int, bool] = dict.fromkeys(refused, False) | dict.fromkeys(runnable, True)

    def works(size: int) -> bool:
        if size not in tried:
            tried[size] = runs(size)
        return tried[size]

    largest = refused[-1]
    # Odd and even, and no multiples of anything: then larger is all it has to be.
    above = all(size > largest for size in runnable)
    if above and works(2 * largest + 1) and works(3 * largest + 2):
        return f"use {_smallest(works, largest, 2 * largest + 1)} or more"
    for step in (2, 4, 8, 16, 32, 64, 128):
        if any(size % step == 0 for size in refused):
            continue
        near = {(size // step + up) * step for size in refused for up in (0, 1)} - {0}
        if all(works(size) for size in (*near, max(near) + step)):
            return f"use multiples of {step}: {', '.join(map(str, sorted(near)))}"
    found = [size for size in sorted({*COMMON, *runnable}) if works(size)]
    if not found:
        return (
            f"it runs at none of {', '.join(map(str, sorted({*COMMON, *refused})))} either; it "
            "must take (N, 3, H, W) float32 images"
        )
    sizes = ", ".join(map(str, found))
    comma = "," if len(found) == 1 else ""
    return f"of common sizes it runs at {sizes} only; use resolutions=({sizes}{comma})"


def _smallest(works: Callable[[int], bool], fails: int, runs: int) -> int:
    """The smallest size that works, between one that does not and one that does."""
    while runs - fails > 1:
        middle = (fails + runs) // 2
        if works(middle):
            runs = middle
        else:
            fails = middle
    return runs
