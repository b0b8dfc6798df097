"""The operations that have compiled kernels, on numpy arrays; imports no torch.

`reference` says what they compute, `backends` which instruction set or device computes it, `gpu`
(which does import torch) holds the GPU's.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.kernels.backends import (
    Isa,
    active,
    available,
    convolutions,
    force,
    gpu_why_not,
    has_native,
    native,
    pick_device,
)

__all__ = [
    "Isa",
    "active",
    "available",
    "clip_gradient",
    "convolutions",
    "force",
    "gpu_why_not",
    "has_native",
    "inside_words",
    "mask_gradient",
    "pick_device",
    "quantize_inside",
    "quantize_rows",
    "quantize_stats",
]

_LEVEL_COUNTS = (2, 4, 8, 16)
# A chunk of the kernels, and the 16-bit words for it: one per lane, a bit per row.
_CHUNK, _LANES = 256, 16


def quantize_stats(
    x: NDArray[np.float32], levels: NDArray[np.float32], out: NDArray[np.float32], threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Quantize to levels and count, in one pass over the data.

    out = levels[number of thresholds t with x > t], thresholds halfway between neighbouring
    levels: float32 0.5 * (a + b). Per level: how many values took it, and their sum.

    The result is the same, bit for bit, for any `threads` and any instruction set. A sum is off
    by at most 1e-6 times the sum of absolute values of its level.

    Values that are not finite: NaN takes level 0, an infinity the level at its end, and each goes
    into that level's sum as it is. So `np.isfinite(sums).all()` is False whenever `x` held one
    (or values near the float32 maximum), and the caller must then keep the sums out of a basis.

    Args:
        x: float32, any shape, C-contiguous.
        levels: (L,) float32, finite, ascending (equal neighbours allowed), L one of 2, 4, 8, 16.
        out: float32, shape of `x`, C-contiguous, writable; may be `x` itself.
        threads: at most so many threads, used where the tensor is large enough to gain by it.
    Returns:
        counts (L,) int64 and sums (L,) float64.
    Raises:
        ValueError: a shape, value or layout other than required.
        TypeError: an argument is not a numpy array of float32.
        ConfigError: no compiled kernels, or RSQUANT_ISA names one that cannot be used.
    Source: the published LQ-Nets code; paper arXiv 1807.10029.
    """
    who = "quantize_stats"
    flat = _flat(who, "x", x)
    _check_levels(who, levels)
    target = _output(who, out, x, ("x", x))
    counts = np.empty(levels.size, dtype=np.int64)
    sums = np.empty(levels.size, dtype=np.float64)
    native().quantize_stats(
        active(),
        flat,
        levels,
        reference.thresholds(levels),
        target,
        counts,
        sums,
        _thread_count(who, threads),
    )
    return counts, sums


def inside_words(count: int) -> int:
    """How many uint16 `quantize_inside` takes for so many values."""
    return -(-count // _CHUNK) * _LANES


def quantize_inside(
    x: NDArray[np.float32],
    levels: NDArray[np.float32],
    bottom: float,
    top: float,
    rectified: bool,
    out: NDArray[np.float32],
    inside: NDArray[np.uint16],
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`quantize_stats`, which also stores a bit per value: whether its gradient passes.

    A gradient passes where bottom <= x <= top. Rectified, the values are max(x, 0), as behind a
    ReLU, and a gradient passes where 0 < x <= top. NaN stays NaN, and passes none.

    Args:
        x, levels, out, threads: as `quantize_stats`.
        bottom, top: as `clip_gradient`.
        inside: (`inside_words(x.size)`,) uint16, writable, for `mask_gradient`. The bits of values
            that do not exist, after the last, are undefined.
    Returns:
        counts (L,) int64 and sums (L,) float64.
    Raises:
        ValueError, TypeError, ConfigError: as `quantize_stats`.
    """
    who = "quantize_inside"
    flat = _flat(who, "x", x)
    _check_levels(who, levels)
    target = _output(who, out, x, ("x", x))
    _check_bits(who, inside, x.size, writable=True)
    counts = np.empty(levels.size, dtype=np.int64)
    sums = np.empty(levels.size, dtype=np.float64)
    native().quantize_stats_inside(
        active(),
        flat,
        levels,
        reference.thresholds(levels),
        float(bottom),
        float(top),
        rectified,
        target,
        inside,
        counts,
        sums,
        _thread_count(who, threads),
    )
    return counts, sums


def mask_gradient(
    grad: NDArray[np.float32],
    inside: NDArray[np.uint16],
    out: NDArray[np.float32],
    threads: int = 1,
) -> None:
    """The gradient that passes: out = grad where the value's bit is set, else 0.

    Args:
        grad: float32, any shape, C-contiguous, its values in the order of those quantized.
        inside: from `quantize_inside`.
        out: float32, shape of `grad`, C-contiguous, writable; may be `grad` itself.
        threads: as `quantize_stats`.
    Raises:
        ValueError, TypeError, ConfigError: as `quantize_stats`.
    """
    who = "mask_gradient"
    flat = _flat(who, "grad", grad)
    target = _output(who, out, grad, ("grad", grad))
    _check_bits(who, inside, grad.size)
    native().mask_gradient(active(), flat, inside, target, _thread_count(who, threads))


def quantize_rows(
    x: NDArray[np.float32],
    levels: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Quantize rows of weights, each to its own levels, and count, in one pass.

    out[o] = levels[o, number of thresholds t of row o with x[o] > t]. Per row and level: how many
    values took it, and their sum. The result is the same, bit for bit, for any `threads` and any
    instruction set. Sums are float64 throughout.

    Values that are not finite: as `quantize_stats`.

    Args:
        x: (O, n) float32, C-contiguous.
        levels: (O, L) float32, finite, L one of 2, 4, 8, 16.
        thresholds: (O, L - 1) float32, ascending.
        out: (O, n) float32, C-contiguous, writable; shares no memory with `x`.
        threads: as `quantize_stats`.
    Returns:
        counts (O, L) int64 and sums (O, L) float64.
    Raises:
        ValueError, TypeError, ConfigError: as `quantize_stats`.
    """
    who = "quantize_rows"
    _flat(who, "x", x)
    _flat(who, "levels", levels)
    _flat(who, "thresholds", thresholds)
    if x.ndim != 2 or levels.ndim != 2 or len(levels) != len(x):
        raise ValueError(
            f"{who}: x must be (O, n) and levels (O, L), got {x.shape} and {levels.shape}"
        )
    if levels.shape[1] not in _LEVEL_COUNTS:
        raise ValueError(f"{who}: L must be one of {_LEVEL_COUNTS}, got {levels.shape[1]}")
    if thresholds.shape != (len(x), levels.shape[1] - 1):
        raise ValueError(
            f"{who}: thresholds must be (O, L - 1) for levels {levels.shape}, got "
            f"{thresholds.shape}"
        )
    if not np.isfinite(levels).all():
        raise ValueError(f"{who}: levels must be finite")
    if not (thresholds[:, 1:] >= thresholds[:, :-1]).all():
        raise ValueError(f"{who}: thresholds of a row must ascend; sort its levels first")
    _output(who, out, x)
    if np.may_share_memory(out, x):
        raise ValueError(f"{who}: out must share no memory with x")
    counts = np.empty(levels.shape, dtype=np.int64)
    sums = np.empty(levels.shape, dtype=np.float64)
    native().quantize_rows(
        active(), x, levels, thresholds, out, counts, sums, _thread_count(who, threads)
    )
    return counts, sums


def clip_gradient(
    grad: NDArray[np.float32],
    x: NDArray[np.float32],
    bottom: float,
    top: float,
    out: NDArray[np.float32],
    threads: int = 1,
) -> None:
    """The gradient of the activation quantizer: out = grad where bottom <= x <= top, else 0.

    NaN in `x` gives 0. Bounds are rounded to float32, the type of the levels they come from.

    Args:
        grad: float32, any shape, C-contiguous.
        x: what was quantized; float32, shape of `grad`, C-contiguous.
        bottom: the lowest level, or -inf for a quantizer that is clipped above only.
        top: the highest level.
        out: float32, shape of `grad`, C-contiguous, writable; may be `grad` or `x` itself.
        threads: at most so many threads, used where the tensor is large enough to gain by it.
    Raises:
        ValueError, TypeError, ConfigError: as `quantize_stats`.
    Source: the published LQ-Nets code; paper arXiv 1807.10029.
    """
    who = "clip_gradient"
    flat_grad, flat_x = _flat(who, "grad", grad), _flat(who, "x", x)
    if x.shape != grad.shape:
        raise ValueError(f"{who}: x must have the shape of grad {grad.shape}, got {x.shape}")
    target = _output(who, out, grad, ("grad", grad), ("x", x))
    native().clip_gradient(
        active(),
        flat_grad,
        flat_x,
        float(bottom),
        float(top),
        target,
        _thread_count(who, threads),
    )


def _flat(who: str, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 1-D view of the array's own memory."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{who}: {name} must be a numpy array of float32, got {got}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{who}: {name} must be C-contiguous, got strides {array.strides} for shape "
            f"{array.shape}; pass np.ascontiguousarray({name})"
        )
    return array.reshape(-1)


def _output(
    who: str, out: NDArray[np.float32], like: NDArray[np.float32], *inputs: tuple[str, np.ndarray]
) -> NDArray[np.float32]:
    target = _flat(who, "out", out)
    if out.shape != like.shape:
        raise ValueError(f"{who}: out must have the input's shape {like.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{who}: out must be writable, got a read-only array")
    for name, array in inputs:
        # Same start and same size: each value is read before it is overwritten. Any other overlap
        # would overwrite values still to be read.
        if out.ctypes.data != array.ctypes.data and np.may_share_memory(out, array):
            raise ValueError(f"{who}: out must be {name} itself or share no memory with it")
    return target


def _check_bits(who: str, bits: NDArray[np.uint16], count: int, writable: bool = False) -> None:
    if not isinstance(bits, np.ndarray) or bits.dtype != np.uint16:
        got = bits.dtype if isinstance(bits, np.ndarray) else type(bits).__name__
        raise TypeError(f"{who}: inside must be a numpy array of uint16, got {got}")
    if bits.shape != (inside_words(count),) or not bits.flags.c_contiguous:
        raise ValueError(
            f"{who}: inside must be C-contiguous of shape ({inside_words(count)},) for {count} "
            f"values, got {bits.shape}"
        )
    if writable and not bits.flags.writeable:
        raise ValueError(f"{who}: inside must be writable, got a read-only array")


def _check_levels(who: str, levels: NDArray[np.float32]) -> None:
    _flat(who, "levels", levels)
    if levels.ndim != 1 or levels.size not in _LEVEL_COUNTS:
        raise ValueError(
            f"{who}: levels must have shape (L,) with L one of {_LEVEL_COUNTS}, got {levels.shape}"
        )
    if not np.isfinite(levels).all():
        raise ValueError(f"{who}: levels must be finite, got {levels.tolist()}")
    if (levels[1:] < levels[:-1]).any():
        raise ValueError(f"{who}: levels must ascend, got {levels.tolist()}; sort them first")


def _thread_count(who: str, threads: int) -> int:
    count = operator.index(threads)
    if count < 1:
        raise ValueError(f"{who}: threads must be at least 1, got {threads}")
    return min(count, 1024)
