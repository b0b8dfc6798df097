"""Convolution of packed codes, as a matrix product on the tensor cores.

A row of the product is an output pixel, a column an output channel, and the sum runs over taps and
words of input pixels:

    acc[m, o] = sum over (tap, word, place) of byte[m, tap, word, place] level[o, tap, word, place]

A program computes a tile of BM pixels and BN channels. It reads BK / V words of each pixel a step,
decodes them in registers to int8 (`words`), multiplies with int8 weight levels or with packed
weights decoded the same way, and applies the epilogue to the 32-bit sums, so that between two
layers only packed codes, and the sums of residual blocks, pass through memory.

A float input becomes an integer n of 16 bits (`rsquant.packed.ops.conv.ConvStep`) in registers and
is multiplied as two signed bytes, n = low + 256 high; |n| is at most 127 * 256 + 127.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rsquant.kernels.gpu.epilogue import store_result
from rsquant.kernels.gpu.words import FLOAT_FIELD, activation_bytes, weight_bytes

FLOATS = tl.constexpr(FLOAT_FIELD)

# Numbers that differ from layer to layer must not make another compilation each.
_PLAIN = [
    "q0",
    "q1",
    "q2",
    "q3",
    "m_count",
    "height",
    "width",
    "out_height",
    "out_width",
    "columns",
    "taps",
    "kernel_width",
    "stride_y",
    "stride_x",
    "pad_y",
    "pad_x",
    "dilation_y",
    "dilation_x",
    "group_out_words",
    "steps",
]


@triton.jit(do_not_specialize=_PLAIN)
def conv_kernel(
    x_ptr,
    w_ptr,
    w_basis_ptr,
    outside_ptr,
    correction_ptr,
    end,
    inverse_step,
    input_limit,
    q0,
    q1,
    q2,
    q3,
    m_count,
    height,
    width,
    out_height,
    out_width,
    pixel_words,
    out_channels,
    columns,
    group_words,
    taps,
    kernel_width,
    stride_y,
    stride_x,
    pad_y,
    pad_x,
    dilation_y,
    dilation_x,
    row_size,
    part_size,
    group_out_words,
    steps,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    IN_BITS: tl.constexpr,
    IN_FIELD: tl.constexpr,
    W_BITS: tl.constexpr,
    PARTS: tl.constexpr,
    WHOLE: tl.constexpr,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    INTEGER: tl.constexpr,
):
    """One tile; see `conv.convolve`. WHOLE: a step's words belong to one tap."""
    WORDS: tl.constexpr = BK * IN_FIELD // 32
    group = tl.program_id(1)
    # Neighbouring programs share their pixels, which then come from the cache.
    column_tiles = tl.cdiv(columns, BN)
    tile_m = tl.program_id(0) // column_tiles
    tile_n = tl.program_id(0) % column_tiles

    m = tile_m * BM + tl.arange(0, BM)
    m_ok = m < m_count
    x_out = m % out_width
    y_out = m // out_width % out_height
    image = m // (out_width * out_height)
    top = y_out * stride_y - pad_y
    left = x_out * stride_x - pad_x
    first = ((image * height + top) * width + left) * pixel_words

    # Weights that do not exist are those of the last channel; nothing of them is stored.
    row = tl.minimum(tile_n * BN + tl.arange(0, BN), columns - 1) + group * columns
    word = tl.arange(0, WORDS)
    place = tl.arange(0, BK)

    if W_BITS > 0:
        v0 = tl.load(w_basis_ptr + 5 * row)[:, None]
        v1 = tl.load(w_basis_ptr + 5 * row + 1)[:, None]
        v2 = tl.load(w_basis_ptr + 5 * row + 2)[:, None]
        v3 = tl.load(w_basis_ptr + 5 * row + 3)[:, None]
        lowest = tl.load(w_basis_ptr + 5 * row + 4)[:, None]

    acc = tl.zeros((BM, BN), tl.int32)
    if PARTS > 1 or IN_FIELD == FLOATS:
        acc_high = tl.zeros((BM, BN), tl.int32)
    # Where a step's words lie: counted, because divisions would cost more than the rest.
    tap_x = 0
    dx = 0
    dy = 0
    first_of_step = 0
    for step in range(steps):
        if WHOLE:
            at = group * group_words + first_of_step + word
            y, x = top + dy, left + dx
            pixel = first + (dy * width + dx) * pixel_words
            codes = _words_of_a_tap(x_ptr, outside_ptr, pixel, at, y, x, m_ok, height, width)
            first_of_step += WORDS
            if first_of_step == group_words:
                first_of_step = 0
                tap_x += 1
                dx += dilation_x
                if tap_x == kernel_width:
                    tap_x = 0
                    dx = 0
                    dy += dilation_y
        else:
            index = step * WORDS + word
            tap = index // group_words
            at = group * group_words + index % group_words
            dys = tap // kernel_width * dilation_y
            dxs = tap % kernel_width * dilation_x
            codes = _words_of_taps(
                x_ptr,
                outside_ptr,
                first,
                top,
                left,
                at,
                dys,
                dxs,
                m_ok,
                tap < taps,
                height,
                width,
                pixel_words,
            )
        if IN_FIELD == FLOATS:
            a, a_high = fixed_bytes(codes, inverse_step, input_limit)
        else:
            a = activation_bytes(codes, q0, q1, q2, q3, IN_BITS, IN_FIELD, BK)
        if W_BITS > 0:
            packed = tl.load(w_ptr + row[:, None] * row_size + (step * WORDS + word)[None, :])
            b = weight_bytes(packed, v0, v1, v2, v3, lowest, W_BITS, IN_FIELD, BK)
            acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
        else:
            at_b = w_ptr + row[None, :] * row_size + (step * BK + place)[:, None]
            b = tl.load(at_b)
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
            if IN_FIELD == FLOATS:
                acc_high = tl.dot(a_high, b, acc_high, out_dtype=tl.int32)
            for part in tl.static_range(1, PARTS):
                high_b = tl.load(at_b + part * part_size)
                acc_high = tl.dot(a, high_b, acc_high, out_dtype=tl.int32)
    if PARTS > 1 or IN_FIELD == FLOATS:
        acc += acc_high * 256
    _store_tile(
        acc,
        correction_ptr,
        end,
        m,
        m_ok,
        group,
        tile_n,
        columns,
        out_channels,
        group_out_words,
        OUT_BITS,
        OUT_FIELD,
        INTEGER,
    )


@triton.jit
def _store_tile(
    acc,
    correction_ptr,
    end,
    m,
    m_ok,
    group,
    tile_n,
    columns,
    out_channels,
    group_out_words,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    INTEGER: tl.constexpr,
):
    """The corrected sums (BM, BN) through the epilogue, to what it writes."""
    BM: tl.constexpr = acc.shape[0]
    BN: tl.constexpr = acc.shape[1]
    # A few columns at a time: the tables of all of them do not fit in registers.
    parts = _columns_of(acc)
    COLUMNS: tl.constexpr = parts[0].shape[1]
    for i in tl.static_range(BN // COLUMNS):
        column = tile_n * BN + i * COLUMNS + tl.arange(0, COLUMNS)
        n_ok = column < columns
        n = group * columns + column
        part = parts[i] - tl.load(correction_ptr + n, mask=n_ok, other=0)[None, :]
        first_word = group * group_out_words + (tile_n * BN + i * COLUMNS) * OUT_FIELD // 32
        store_result(
            part,
            m.to(tl.int64),
            m_ok,
            n,
            n_ok,
            out_channels,
            first_word,
            end,
            OUT_BITS,
            OUT_FIELD,
            INTEGER,
            BM,
            COLUMNS,
        )


@triton.jit
def _words_of_a_tap(x_ptr, outside_ptr, pixel, at, y, x, m_ok, height, width):
    """Words `at` of pixels (BM,) at rows y and columns x, or those around the map: (BM, WORDS)."""
    # Negative numbers are large unsigned ones.
    inside = m_ok & (y.to(tl.uint32) < height) & (x.to(tl.uint32) < width)
    ok = inside[:, None]
    codes = tl.load(x_ptr + pixel[:, None] + at[None, :], mask=ok, other=0)
    if outside_ptr is not None:
        codes = tl.where(ok, codes, tl.load(outside_ptr + at)[None, :])
    return codes


@triton.jit
def _words_of_taps(
    x_ptr,
    outside_ptr,
    first,
    top,
    left,
    at,
    dys,
    dxs,
    m_ok,
    exists,
    height,
    width,
    pixel_words,
):
    """The same where each word has a tap of its own: `at`, dys, dxs and exists are (WORDS,)."""
    y = (top[:, None] + dys[None, :]).to(tl.uint32)
    x = (left[:, None] + dxs[None, :]).to(tl.uint32)
    ok = m_ok[:, None] & exists[None, :] & (y < height) & (x < width)
    pixel = first[:, None] + ((dys * width + dxs) * pixel_words)[None, :]
    codes = tl.load(x_ptr + pixel + at[None, :], mask=ok, other=0)
    if outside_ptr is not None:
        beyond = tl.load(outside_ptr + at, mask=exists, other=0)
        codes = tl.where(ok, codes, beyond[None, :])
    return codes


@triton.jit
def fixed_bytes(x, inverse_step, limit):
    """Floats to low and high int8 of n = clamp(rint(x * inverse_step)), n = low + 256 high.

    Adding 1.5 * 2**23 rounds to an integer, half to even, as float32 additions do.
    """
    scaled = tl.minimum(tl.maximum(x * inverse_step, -limit), limit)
    n = ((scaled + 12582912.0) - 12582912.0).to(tl.int32)
    return (((n + 128) & 255) - 128).to(tl.int8), ((n + 128) >> 8).to(tl.int8)


@triton.jit
def _columns_of(acc):
    """A tile's columns in parts of 32, in order; moves nothing between threads."""
    if acc.shape[1] == 32:
        parts = (acc,)
    elif acc.shape[1] == 64:
        parts = _halves(acc)
    else:
        left, right = _halves(acc)
        if acc.shape[1] == 128:
            parts = _halves(left) + _halves(right)
        else:
            a, b = _halves(left)
            c, d = _halves(right)
            parts = _halves(a) + _halves(b) + _halves(c) + _halves(d)
    return parts


@triton.jit
def _halves(acc):
    half: tl.constexpr = acc.shape[1] // 2
    split = tl.permute(tl.reshape(acc, (acc.shape[0], 2, half)), (0, 2, 1))
    return tl.split(split)
