"""The specification of every kernel: plain, slow numpy, float64 where it adds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Pair = tuple[int, int]
# Top and left (bottom and right are alike), or top, left, bottom and right.
Pads = Pair | tuple[int, int, int, int]
Spans = NDArray[np.int32]

# Below this the classifier's input is 0: its reciprocal would overflow.
SMALLEST_INPUT = 1e-30
# Of a convolution's fixed-point input: two signed bytes, low + 256 high.
MAX_FIXED = 127 * 256 + 127


def thresholds(levels: Float32Array) -> Float32Array:
    """Halfway between neighbours: float32 0.5 * (levels[k] + levels[k + 1]), shape (L - 1,)."""
    halfway: Float32Array = np.float32(0.5) * (levels[:-1] + levels[1:])
    return halfway


def quantize_stats(
    x: Float32Array, levels: Float32Array
) -> tuple[Float32Array, NDArray[np.int64], NDArray[np.float64]]:
    """Each value's level, and per level how many values took it and their sum.

    code(x) = number of thresholds t with x > t;  out = levels[code]. A value on a threshold goes
    down; NaN exceeds nothing and takes level 0.

    Args:
        x: float32, any shape.
        levels: (L,) float32, ascending.
    Returns:
        out, shape of `x`; counts (L,) int64; sums (L,) float64.
    Source: the published LQ-Nets code; paper arXiv 1807.10029.
    """
    codes = np.zeros(x.shape, dtype=np.int64)
    for threshold in thresholds(levels):
        codes += x > threshold
    flat = codes.ravel()
    counts = np.bincount(flat, minlength=levels.size).astype(np.int64)
    sums = np.bincount(flat, weights=x.ravel(), minlength=levels.size).astype(np.float64)
    return levels[codes], counts, sums


def clip_gradient(grad: Float32Array, x: Float32Array, bottom: float, top: float) -> Float32Array:
    """grad where bottom <= x <= top, else 0 (NaN in `x` gives 0)."""
    inside = (x >= np.float32(bottom)) & (x <= np.float32(top))
    return np.where(inside, grad, np.float32(0))


def quantize_rows(
    x: Float32Array, levels: Float32Array, thresholds: Float32Array
) -> tuple[Float32Array, NDArray[np.int64], NDArray[np.float64]]:
    """Each row's values at its own levels: x (O, n), levels (O, L), thresholds (O, L - 1).

    Returns:
        out, shape of `x`; counts (O, L) int64; sums (O, L) float64, of any order.
    """
    codes: NDArray[np.int64] = (x[:, :, None] > thresholds[:, None]).sum(-1)
    taken = codes[:, None] == np.arange(levels.shape[1])[:, None]
    counts = taken.sum(-1)
    sums = np.where(taken, x[:, None].astype(np.float64), 0.0).sum(-1)
    return np.take_along_axis(levels, codes, 1), counts, sums


def passes(x: Float32Array, bottom: float, top: float, rectified: bool) -> NDArray[np.bool_]:
    """Whether the gradient of each value passes an activation quantizer (behind a ReLU)."""
    low = x > 0 if rectified else x >= np.float32(bottom)
    inside: NDArray[np.bool_] = low & (x <= np.float32(top))
    return inside


def weight_levels(
    planes: NDArray[np.uint8], basis: NDArray[np.int16], offset: NDArray[np.int8], taps: int
) -> NDArray[np.int64]:
    """Bit planes to weight levels: level = offset[o] + sum_k basis[o, k] * bit_k.

    Args:
        planes: (K, O, R) uint8; bit i, little endian in byte i // 8, is that of weight i.
        basis: (O, K) int16. offset: (O,) int8.
        taps: n, weights per output channel; bits from n on are padding.
    Returns:
        (O, n) int64.
    """
    bits = np.unpackbits(planes, axis=-1, count=taps, bitorder="little").astype(np.int64)
    parts: NDArray[np.int64] = bits * basis.T[:, :, None].astype(np.int64)
    return offset[:, None].astype(np.int64) + parts.sum(0)


def fixed_limit(taps: int, weight_limit: int) -> int:
    """Largest fixed-point input of a convolution: so that no sum of its products leaves 32 bits."""
    return min(MAX_FIXED, (2**31 - 1) // max(1, taps * weight_limit))


def fixed_point(x: Float32Array, inverse_step: float, limit: int) -> NDArray[np.int16]:
    """min(max(rint(x * inverse_step), -limit), limit): float32, one rounding per operation.

    rint rounds half to even. A product that overflows is infinite, and limited as well.
    """
    with np.errstate(over="ignore"):
        rounded = np.rint(x * np.float32(inverse_step))
    return np.clip(rounded, -limit, limit).astype(np.int16)


def conv_accumulators(
    x: NDArray[np.uint8] | NDArray[np.int16],
    weight: NDArray[np.int64],
    stride: Pair,
    padding: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
    fill: int = 0,
) -> NDArray[np.int32]:
    """Sums of products of a convolution: bytes or fixed-point numbers times levels, exact.

    acc[n, y, x, o] = sum over (kh, kw, c) of x[n, y s + kh d - p, x s + kw d - p, c] weight[o, ...]

    Args:
        x: (N, H, W, C) uint8 or int16. weight: (O, kh, kw, C / groups), integers.
        fill: the number of every pixel outside the input.
    Returns:
        (N, OH, OW, O) int32.
    Raises:
        OverflowError: a sum does not fit.
    """
    kh, kw = weight.shape[1:3]
    padded = np.pad(x, _ends(padding), constant_values=fill)
    extent = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, (1, 2))
    windows = windows[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    n, height, width, channels = windows.shape[:4]
    # Floats add integers exactly up to 2**24 and 2**53: a matrix product of them is fast.
    bound = int(np.abs(weight).sum((1, 2, 3)).max(initial=0)) * np.iinfo(x.dtype).max
    exact = np.float32 if bound <= 2**24 else np.float64
    per_group = channels // groups
    # (N, OH, OW, g, c, kh, kw) -> (g, N OH OW, kh kw c)
    split = windows.reshape(n, height, width, groups, per_group, kh, kw)
    columns = split.transpose(3, 0, 1, 2, 5, 6, 4).reshape(groups, n * height * width, -1)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    sums = columns.astype(exact) @ rows.astype(exact)  # (g, N OH OW, O / g)
    if np.abs(sums).max(initial=0) > np.iinfo(np.int32).max:
        raise OverflowError("conv_accumulators: a sum needs more than 32 bits")
    acc = sums.transpose(1, 0, 2).reshape(n, height, width, -1)
    return acc.astype(np.int32)


def _ends(padding: Pads) -> tuple[Pair, Pair, Pair, Pair]:
    """What (N, H, W, C) gets before and after each dimension."""
    top, left, bottom, right = padding if len(padding) == 4 else (*padding, *padding)
    return (0, 0), (top, bottom), (left, right), (0, 0)


def affine(
    x: NDArray[np.int32] | Float32Array | NDArray[np.uint8],
    scale: Float32Array,
    shift: Float32Array,
) -> Float32Array:
    """scale * float32(x) + shift: two roundings, no fused multiply-add; channels last."""
    return x.astype(np.float32) * scale + shift


def clamp(x: Float32Array, relu: bool, clip: float) -> Float32Array:
    """min(max(x, 0) if relu, clip)."""
    if relu:
        x = np.maximum(x, np.float32(0))
    return np.minimum(x, np.float32(clip))


def to_codes(
    x: NDArray[np.int32] | Float32Array,
    thresholds: NDArray[np.int32] | Float32Array,
    sign: NDArray[np.int8],
    levels: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """levels[number of k with sign * x > thresholds[k]].

    Args:
        x: (..., O) int32, above its lowest value, or float32. thresholds: (L - 1, O) of its type.
        sign: (O,) +1 or -1. levels: (L,) uint8.
    """
    signed = x * sign.astype(x.dtype)
    codes = np.zeros(x.shape, np.int64)
    for threshold in thresholds:
        codes += signed > threshold
    return levels[codes]


def max_pool(
    x: NDArray[np.uint8] | Float32Array, rows: Spans, columns: Spans, dilation: Pair = (1, 1)
) -> NDArray[np.uint8] | Float32Array:
    """Largest value of each window of (N, H, W, C).

    Args:
        rows, columns: (OH, 2), (OW, 2), of each window its first pixel and the one behind its last.
        dilation: pixels from one to the next in a window.
    """
    down, across = dilation
    tall = np.stack([x[:, i:end:down].max(1) for i, end in rows], 1)
    wide: NDArray[np.uint8] | Float32Array
    wide = np.stack([tall[:, :, j:end:across].max(2) for j, end in columns], 2)
    return wide


def average_windows(
    x: Float32Array, rows: Spans, columns: Spans, share: Float32Array
) -> Float32Array:
    """share times the sum of each window of (N, H, W, C).

    One float32 accumulator, added to in the order of the window's rows and columns.

    Args:
        rows, columns: as of `max_pool`. share: (OH, OW) float32.
    """
    # A window's first pixels are added in all windows, then the second ones, and 0 where one has
    # no more: sums are never -0, so that changes nothing.
    shape = len(x), len(rows), len(columns), x.shape[-1]
    total: NDArray[Any] = np.zeros(shape, np.float32)
    for i in range(int((rows[:, 1] - rows[:, 0]).max())):
        for j in range(int((columns[:, 1] - columns[:, 0]).max())):
            y, z = rows[:, 0] + i, columns[:, 0] + j
            there = (y < rows[:, 1])[:, None] & (z < columns[:, 1])
            y, z = np.minimum(y, x.shape[1] - 1), np.minimum(z, x.shape[2] - 1)
            pixels = x[:, y[:, None], z]
            total += np.where(there[:, :, None], pixels, np.float32(0))
    mean: Float32Array = total * share[:, :, None]
    return mean


def blend(
    x: NDArray[Any],
    rows: NDArray[np.int32],
    row_weights: Float32Array,
    columns: NDArray[np.int32],
    column_weights: Float32Array,
) -> NDArray[Any]:
    """Pixels between two rows and two columns of (N, H, W, C) each, one rounding per operation.

        (v00 c0 + v01 c1) r0 + (v10 c0 + v11 c1) r1

    Of bytes, whose weights are whole parts of 128, no operation rounds, and the result is rounded
    to a byte, halves to even.

    Args:
        x: float32 or uint8, as is the result.
        rows, columns: (OH, 2), (OW, 2). row_weights, column_weights: r and c, the same in float32.
    """
    left, right = (column_weights[:, i, None] for i in range(2))
    wide = x[:, :, columns[:, 0]] * left + x[:, :, columns[:, 1]] * right
    top, bottom = (row_weights[:, i, None, None] for i in range(2))
    result = wide[:, rows[:, 0]] * top + wide[:, rows[:, 1]] * bottom
    return np.asarray(np.rint(result) if x.dtype == np.uint8 else result, x.dtype)


def average_pool(
    x: Float32Array, scale: Float32Array, shift: Float32Array, relu: bool, clip: float
) -> Float32Array:
    """Mean of clamp(scale * x + shift) over the pixels of (N, H, W, C): (N, 1, 1, C) float32.

    One float32 accumulator per channel, added to in the order of rows and columns, then times
    float32(1 / pixels).
    """
    n, height, width, channels = x.shape
    values = clamp(affine(x, scale, shift), relu, clip).reshape(n, -1, channels)
    # cumsum adds one after the other, where sum adds pairs.
    total = np.cumsum(values, axis=1, dtype=np.float32)[:, -1]
    mean: Float32Array = total * np.float32(1 / (height * width))
    return mean[:, None, None]


def linear_limit(inputs: int) -> int:
    """Largest rounded input of `linear`: so that the sum of C products fits 32 bits."""
    return min(32767, (2**31 - 1) // (127 * inputs))


def linear(
    x: Float32Array, weight: NDArray[np.int8], scale: Float32Array, bias: Float32Array
) -> Float32Array:
    """The classifier: int8 weights times inputs rounded to integers, per image.

        limit = min(32767, (2**31 - 1) // (127 C));  m = max |x|;  X = rint(x * (limit / m))
        logit = float32(sum_c X_c weight_oc) * ((m / limit) * scale_o) + bias_o

    All float32, one rounding per operation, rint half to even; X = 0 where m < SMALLEST_INPUT.

    Args:
        x: (N, C) float32, finite. weight: (O, C) int8, at least -127. scale, bias: (O,) float32.
    Returns:
        (N, O) float32.
    """
    limit = np.float32(linear_limit(x.shape[1]))
    largest = np.abs(x).max(1, keepdims=True)
    safe = np.maximum(largest, np.float32(SMALLEST_INPUT))
    rounded = np.rint(x * (limit / safe)).astype(np.int64)
    rounded[largest[:, 0] < np.float32(SMALLEST_INPUT)] = 0
    acc = (rounded @ weight.T.astype(np.int64)).astype(np.float32)
    return acc * ((safe / limit) * scale) + bias
