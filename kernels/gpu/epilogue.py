"""What happens to a result before it is stored: `rsquant.packed.ops.epilogue.Epilogue` on the GPU.

    v = scale * x + shift;  v = v + add;  keep: clamp(v)
    codes: the field of the level reached, by how many thresholds v (or x) exceeds

Kernels that call it are launched with `enable_fp_fusion=False`: a fused multiply-add rounds once
where the specification rounds twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words


@dataclass(frozen=True)
class Tables:
    """An epilogue's numbers on the device.

    Attributes:
        scale, shift: (O,) float32. sign: (O,) int32, +1 or -1.
        thresholds: (L - 1, O) int32 or float32.
        steps: (L,) int32: field of the lowest level, then how much each level adds to it.
        low, high: limits of the float value.
        bits, field: of the codes; 0 without.
        integer: thresholds are for the accumulator.
    """

    scale: Tensor
    shift: Tensor
    sign: Tensor
    thresholds: Tensor
    steps: Tensor
    low: float
    high: float
    bits: int
    field: int
    integer: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the tables per channel."""
        return sum(t.nbytes for t in (self.scale, self.shift, self.sign, self.thresholds))


def tables(
    scale: np.ndarray,
    shift: np.ndarray,
    sign: np.ndarray,
    thresholds: np.ndarray,
    levels: np.ndarray,
    relu: bool,
    clip: float,
    integer: bool,
    device: torch.device,
) -> Tables:
    """Of the fields of an `Epilogue`; `levels` empty where there are no codes."""
    bits = int(levels.size).bit_length() - 1 if levels.size else 0
    steps = np.zeros(1, np.int32)
    if bits:
        fields = _fields(levels, bits)
        steps = np.diff(fields, prepend=0).astype(np.int32)

    def put(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device)

    return Tables(
        scale=put(scale),
        shift=put(shift),
        sign=put(sign.astype(np.int32)),
        thresholds=put(thresholds),
        steps=put(steps),
        low=0.0 if relu else float("-inf"),
        high=clip,
        bits=bits,
        field=words.field_bits(bits) if bits else 0,
        integer=integer and bits > 0,
    )


def _fields(levels: np.ndarray, bits: int) -> np.ndarray:
    """The field of each level; the basis is found in the levels, sums of subsets, ascending."""
    basis = basis_of_levels(levels, bits)
    field = words.field_of_byte(basis)
    return np.array([field[int(level)] for level in levels])


def basis_of_levels(levels: np.ndarray, bits: int) -> tuple[int, ...]:
    """The ascending basis whose sums of subsets are `levels`, the lowest being 0.

    The smallest sum left over is a basis value; it and what it makes are taken out.
    """
    left = sorted(int(level) for level in levels)
    made, basis = [left.pop(0)], []
    for _ in range(bits):
        value = left[0] - made[0]
        basis.append(value)
        for total in [m + value for m in made]:
            left.remove(total)
            made.append(total)
    return tuple(basis)


class Arguments(NamedTuple):
    """An epilogue as a kernel takes it, in one argument.

    Attributes:
        scale, shift, sign, thresholds, steps, low, high: of `Tables`.
        add, keep: (..., O) float32, the values added and stored; None where there are none.
        codes: (..., words) int32, or None.
        words: of a pixel's codes.
    """

    scale: Tensor
    shift: Tensor
    sign: Tensor
    thresholds: Tensor
    steps: Tensor
    add: Tensor | None
    keep: Tensor | None
    codes: Tensor | None
    words: int
    low: float
    high: float


def arguments(
    tables: Tables, add: Tensor | None, keep: Tensor | None, codes: Tensor | None
) -> Arguments:
    """The tables and the values that a launch adds and stores."""
    return Arguments(
        tables.scale,
        tables.shift,
        tables.sign,
        tables.thresholds,
        tables.steps,
        add,
        keep,
        codes,
        0 if codes is None else codes.shape[-1],
        tables.low,
        tables.high,
    )


@triton.jit
def store_result(
    x,
    rows,
    row_ok,
    n,
    n_ok,
    width,
    first_word,
    end,
    bits: tl.constexpr,
    field: tl.constexpr,
    integer: tl.constexpr,
    rows_here: tl.constexpr,
    columns: tl.constexpr,
):
    """Apply an epilogue to x (rows_here, columns), int32 or float32, and store what it gives.

    Args:
        rows: (rows_here,) int64, pixel numbers. n: (columns,) channel numbers.
        width: O, channels of a pixel of float values and tables.
        first_word: where the codes of n[0] are in a pixel's words.
        end: `Arguments`.
        bits, field, integer: of `Tables`.
    """
    ok = row_ok[:, None] & n_ok[None, :]
    scale = tl.load(end.scale + n, mask=n_ok, other=0.0)
    shift = tl.load(end.shift + n, mask=n_ok, other=0.0)
    v = x.to(tl.float32) * scale[None, :] + shift[None, :]
    floats = rows[:, None] * width + n[None, :]
    if end.add is not None:
        v += tl.load(end.add + floats, mask=ok, other=0.0)
    if end.keep is not None:
        tl.store(end.keep + floats, tl.minimum(tl.maximum(v, end.low), end.high), mask=ok)
    if bits > 0:
        sign = tl.load(end.sign + n, mask=n_ok, other=1)
        if integer:
            u = x * sign[None, :]
        else:
            u = v * sign.to(tl.float32)[None, :]
        fields = tl.zeros((rows_here, columns), tl.int32) + tl.load(end.steps)
        for k in tl.static_range((1 << bits) - 1):
            threshold = tl.load(end.thresholds + k * width + n, mask=n_ok, other=0)
            fields += tl.where(u > threshold[None, :], tl.load(end.steps + k + 1), 0)
        fields = tl.where(n_ok[None, :], fields, 0)
        count: tl.constexpr = 32 // field
        fields = fields << (field * (tl.arange(0, columns) % count))[None, :]
        out = tl.sum(tl.reshape(fields, (rows_here, columns // count, count)), axis=2)
        word = first_word + tl.arange(0, columns // count)
        where = rows[:, None] * end.words + word[None, :]
        tl.store(end.codes + where, out, mask=row_ok[:, None] & (word < end.words)[None, :])
