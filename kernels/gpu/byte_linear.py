"""The classifier of bytes or codes: `rsquant.packed.ops.linear.ByteLinearStep`.

The tensor cores multiply signed bytes: sum w (byte - zero) = sum w (byte - 128) + (128 - zero) sum
w, of which the second part is in the bias already.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.maps import load_map
from rsquant.kernels.gpu.support import one_rounding

_ROWS, _COLUMNS, _STEP = 16, 64, 128
_SIGNED = 128


def signed_bias(weight: np.ndarray, bias: np.ndarray, zero: int) -> np.ndarray:
    """(O,) int32: `bias` for bytes less 128 instead of less `zero`. Sums modulo 2**32 are exact."""
    moved: np.ndarray = bias.astype(np.int64) + (_SIGNED - zero) * weight.sum(1, dtype=np.int64)
    return moved.astype(np.int32)


def byte_linear(
    x: Tensor,
    weight: Tensor,
    factor: Tensor,
    bias: Tensor,
    out: Tensor,
    basis: tuple[int, ...] = (),
) -> None:
    """factor * float32(sum of weight * (byte - 128) + bias).

    Args:
        x: (N, pitch) uint8, or (N, words) int32 codes of `basis`.
        weight: (O, C) int8. factor: (O,) float32. bias: (O,) int32 of `signed_bias`.
        out: (N, O) float32.
    """
    outputs, inputs = weight.shape
    byte_linear_kernel[triton.cdiv(outputs, _COLUMNS), triton.cdiv(len(x), _ROWS)](
        x,
        weight,
        factor,
        bias,
        out,
        len(x),
        inputs,
        outputs,
        x.shape[1],
        words.four(basis),
        FIELD=words.field_bits(len(basis)),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        STEP=_STEP,
        **one_rounding(),
    )


@triton.jit
def byte_linear_kernel(
    x_ptr,
    weight_ptr,
    factor_ptr,
    bias_ptr,
    out_ptr,
    rows,
    inputs,
    outputs,
    row_size,
    q,
    FIELD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row_ok = row < rows
    column_ok = column < outputs
    n = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, inputs, STEP):
        place = start + tl.arange(0, STEP)
        place_ok = place < inputs
        ok = row_ok[:, None] & place_ok[None, :]
        byte = load_map(x_ptr, row, place, ok, row_size, q, FIELD).to(tl.int32)
        # Weights of channels that do not exist are 0.
        at = weight_ptr + column[None, :] * inputs + place[:, None]
        w = tl.load(at, mask=column_ok[None, :] & place_ok[:, None], other=0)
        n = tl.dot((byte - 128).to(tl.int8), w, n, out_dtype=tl.int32)
    factor = tl.load(factor_ptr + column, mask=column_ok, other=0.0)
    bias = tl.load(bias_ptr + column, mask=column_ok, other=0)
    logits = factor[None, :] * (n + bias[None, :]).to(tl.float32)
    at = out_ptr + row[:, None] * outputs + column[None, :]
    tl.store(at, logits, mask=row_ok[:, None] & column_ok[None, :])
