"""Tables of a `ByteEpilogue` as the compiled kernels take them: conv.h's ByteEpilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels.backends import native
from rsquant.packed.ops.integer_epilogue import ByteEpilogue

# Levels are compared as signed bytes: byte - 128.
_SIGNED = 128


def byte_tables(e: ByteEpilogue, correction: NDArray[np.int32]) -> Any:
    """A ByteEpilogue whose accumulators are too large by `correction` (O,)."""
    threshold, step, base = level_bytes(e)
    return native().ByteTables(
        bias=(e.bias - correction).astype(np.int32),
        factor=e.factor,
        low=e.low,
        high=e.high,
        offset=e.zero - e.add_zero,
        least=e.least + e.zero,
        most=e.most + e.zero,
        threshold=threshold,
        step=step,
        base=base,
        add=e.add,
        keep=e.keep,
        codes=e.codes,
    )


def level_bytes(
    e: ByteEpilogue,
) -> tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint8]]:
    """level = base + sum over k of (byte - 128 > threshold_k ? step_k : 0), modulo 256.

    Where `sign` is -1,  -code > t  is  not (code > -t - 1): the level falls by its step there. A
    threshold that all bytes exceed is part of the base.

    Returns:
        threshold, step: (L - 1, O); base: (O,).
    """
    falling = e.sign < 0
    least, most = -_SIGNED, _SIGNED - 1
    # Of code: byte - 128 = code + zero - 128.
    bound = np.where(falling, -1 - e.thresholds, e.thresholds) + e.zero - _SIGNED
    levels = e.levels.astype(np.int64)
    steps = np.diff(levels)[:, None] * np.where(falling, -1, 1)
    base: NDArray[np.int64] = np.where(falling, levels[-1:].sum(), levels[:1].sum())
    always = bound < least
    base = base + np.where(always, steps, 0).sum(0)
    steps = np.where(always, 0, steps)
    return (
        np.clip(bound, least, most).astype(np.int8),
        np.mod(steps, 256).astype(np.uint8),
        np.mod(base, 256).astype(np.uint8),
    )
