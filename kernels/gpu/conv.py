"""Convolution of packed codes, as a matrix product on the tensor cores.

A row of the product is an output pixel, a column an output channel, and the sum runs over taps and
words of input pixels:

    acc[m, o] = sum over (tap, word, place) of byte[m, tap, word, place] level[o, tap, word, place]

A program computes a tile of BM pixels and BN channels. It reads BK / V words of each pixel a step,
decodes them in registers to int8 (`words`), multiplies with int8 weight levels or with packed
weights decoded the same way, and applies the epilogue to the 32-bit sums, so that between two
layers only packed codes, and the float sums of residual blocks, pass through memory.

A float input becomes an integer n of 16 bits (`rsquant.packed.ops.conv.ConvStep`) in registers and
is multiplied as two signed bytes, n = low + 256 high; |n| is at most 127 * 256 + 127.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from rsquant.errors import ConfigError
from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.epilogue import Tables, store_result
from rsquant.kernels.gpu.support import interpreted
from rsquant.kernels.gpu.weights import Weights
from rsquant.kernels.gpu.words import FLOAT_FIELD, activation_bytes, weight_bytes

# Offsets in the kernel are 32-bit where they count words of the input.
MAX_OFFSET = 2**31 - 1
FLOATS = tl.constexpr(FLOAT_FIELD)


@dataclass(frozen=True)
class Geometry:
    """A convolution's form; sizes as in `rsquant.packed.ops.conv.ConvStep`."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def pixels(self) -> int:
        """Rows of the product."""
        return self.batch * self.out_height * self.out_width

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Tile:
    """How a convolution is cut up.

    Attributes:
        bm, bn: pixels and channels of a tile. bk: bytes of the sum in a step.
        warps, stages: of the compiler.
        packed: read the packed weights and decode them, else int8 ones.
    """

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    packed: bool = False

    def __str__(self) -> str:
        weights = "packed" if self.packed else "int8"
        return f"{self.bm}x{self.bn}x{self.bk} w{self.warps} s{self.stages} {weights}"

    @staticmethod
    def parse(text: str) -> Tile:
        """What `str` wrote. Raises ValueError for anything else."""
        shape, warps, stages, weights = text.split()
        bm, bn, bk = map(int, shape.split("x"))
        if weights not in ("packed", "int8") or warps[0] != "w" or stages[0] != "s":
            raise ValueError(text)
        return Tile(bm, bn, bk, int(warps[1:]), int(stages[1:]), weights == "packed")


# Wide ones first: they decode the pixels least often. With 256 columns the products of a Hopper
# multiprocessor take longer than the decoding, with 128 about as long (counted by `aot`).
_TILES = (
    Tile(128, 256, 128, 8, 3),
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 64, 8, 4),
    Tile(128, 64, 128, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 128, 4, 3),
    Tile(64, 64, 128, 4, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
)

# A float is four bytes and two products: the widest tiles that spill no registers (`aot`).
_FLOAT_TILES = (
    Tile(64, 128, 64, 8, 3),
    Tile(128, 64, 64, 8, 3),
    Tile(64, 64, 64, 8, 3),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 32, 64, 4, 4),
)


def tiles(form: Geometry, weights: Weights, in_field: int, out_field: int) -> Iterator[Tile]:
    """The tiles worth trying for a convolution, the likeliest first."""
    columns = form.out_channels // weights.groups
    words_out = words.word_channels(out_field) if out_field else 1
    for tile in _FLOAT_TILES if in_field == FLOAT_FIELD else _TILES:
        if tile.bn > max(32, triton.next_power_of_2(columns)) or tile.bn < words_out:
            continue
        if tile.bm > max(32, triton.next_power_of_2(form.pixels)):
            continue
        if tile.bk > max(64, form.taps * weights.group_words * words.word_channels(in_field)):
            continue
        yield tile
        if weights.packed is not None and tile.bn <= 128:
            yield dataclasses.replace(tile, packed=True)


def convolve(
    form: Geometry,
    x: Tensor,
    weights: Weights,
    tables: Tables,
    tile: Tile,
    basis: tuple[int, ...],
    in_field: int,
    outside: Tensor | None,
    add: Tensor | None,
    keep: Tensor | None,
    codes: Tensor | None,
    inverse_step: float = 0.0,
    input_limit: int = 0,
) -> None:
    """Run one convolution.

    Args:
        x: (N, H, W, words) int32, codes or the image; or (N, H, W, C) float32.
        basis: what the bits of a field are worth, ascending; empty for the image and floats.
        outside: (words,) int32, the pixel that stands for every one outside the input; None means
            fields of 0.
        add, keep: (N, OH, OW, O) float32. codes: (N, OH, OW, words) int32.
        inverse_step, input_limit: of a float input, see `ConvStep`.
    Raises:
        ConfigError: too many values for the kernel's offsets.
    """
    if x.numel() > MAX_OFFSET:
        raise ConfigError(
            f"gpu: a convolution's input has {x.numel()} words, at most {MAX_OFFSET} are possible; "
            "use a smaller batch"
        )
    groups, columns = weights.groups, form.out_channels // weights.groups
    step = tile.bk // words.word_channels(in_field)
    grid = (triton.cdiv(form.pixels, tile.bm) * triton.cdiv(columns, tile.bn), groups)
    nothing = tables.scale
    matrix = weights.levels
    if tile.packed and weights.packed is not None:
        matrix = weights.packed
    q = (*basis, 0, 0, 0, 0)[:4]
    out_count = words.word_channels(tables.field) if tables.bits else 1
    options = {} if interpreted() else {"enable_fp_fusion": False}
    conv_kernel[grid](
        x,
        matrix,
        nothing if weights.basis is None else weights.basis,
        nothing if outside is None else outside,
        weights.correction,
        tables.scale,
        tables.shift,
        tables.sign,
        tables.thresholds,
        tables.steps,
        nothing if add is None else add,
        nothing if keep is None else keep,
        nothing if codes is None else codes,
        tables.low,
        tables.high,
        inverse_step,
        float(input_limit),
        *q,
        form.pixels,
        form.height,
        form.width,
        form.out_height,
        form.out_width,
        x.shape[-1],
        form.out_channels,
        columns,
        weights.group_words,
        form.taps,
        form.kernel[1],
        *form.stride,
        *form.padding,
        *form.dilation,
        matrix.shape[-1],
        weights.levels[0].numel(),
        1 if codes is None else codes.shape[-1],
        columns // out_count,
        triton.cdiv(form.taps * weights.group_words, step),
        BM=tile.bm,
        BN=tile.bn,
        BK=tile.bk,
        IN_BITS=len(basis),
        IN_FIELD=in_field,
        W_BITS=weights.bits if matrix is weights.packed else 0,
        PARTS=len(weights.levels),
        WHOLE=weights.group_words % step == 0,
        OUTSIDE=outside is not None,
        HAS_ADD=add is not None,
        HAS_KEEP=keep is not None,
        OUT_BITS=tables.bits,
        OUT_FIELD=tables.field,
        INTEGER=tables.integer,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **options,
    )


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
    scale_ptr,
    shift_ptr,
    sign_ptr,
    thresholds_ptr,
    steps_ptr,
    add_ptr,
    keep_ptr,
    codes_ptr,
    low,
    high,
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
    out_words,
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
    OUTSIDE: tl.constexpr,
    HAS_ADD: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    OUT_BITS: tl.constexpr,
    OUT_FIELD: tl.constexpr,
    INTEGER: tl.constexpr,
):
    """One tile; see `convolve`. WHOLE: a step's words belong to one tap."""
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
            # Negative numbers are large unsigned ones.
            y = (top + dy).to(tl.uint32)
            x = (left + dx).to(tl.uint32)
            inside = m_ok & (y < height) & (x < width)
            ok = inside[:, None]
            pixel = first + (dy * width + dx) * pixel_words
            codes = tl.load(x_ptr + pixel[:, None] + at[None, :], mask=ok, other=0)
            if OUTSIDE:
                codes = tl.where(ok, codes, tl.load(outside_ptr + at)[None, :])
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
            y = (top[:, None] + dys[None, :]).to(tl.uint32)
            x = (left[:, None] + dxs[None, :]).to(tl.uint32)
            exists = tap < taps
            ok = m_ok[:, None] & exists[None, :] & (y < height) & (x < width)
            pixel = first[:, None] + ((dys * width + dxs) * pixel_words)[None, :]
            codes = tl.load(x_ptr + pixel + at[None, :], mask=ok, other=0)
            if OUTSIDE:
                beyond = tl.load(outside_ptr + at, mask=exists, other=0)
                codes = tl.where(ok, codes, beyond[None, :])
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
            scale_ptr,
            shift_ptr,
            sign_ptr,
            thresholds_ptr,
            steps_ptr,
            add_ptr,
            keep_ptr,
            codes_ptr,
            first_word,
            out_words,
            low,
            high,
            HAS_ADD,
            HAS_KEEP,
            OUT_BITS,
            OUT_FIELD,
            INTEGER,
            BM,
            COLUMNS,
        )


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
