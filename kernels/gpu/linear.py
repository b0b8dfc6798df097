"""The classifier: int8 weights, inputs rounded to 16 bits; `rsquant.kernels.reference.linear`.

A rounded input X, at most 32767 in size, is split as X = low + 128 + 256 high with both in int8, so
that two integer products and the sum of the weights give its product exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rsquant.kernels.gpu.support import one_rounding
from rsquant.kernels.reference import SMALLEST_INPUT, linear_limit

_ROWS, _COLUMNS, _STEP = 16, 64, 128


def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, out: Tensor) -> None:
    """x (N, C) float32, weight (O, C) int8, scale and bias (O,) float32, out (N, O) float32."""
    n, inputs = x.shape
    outputs = len(weight)
    linear_kernel[triton.cdiv(outputs, _COLUMNS), triton.cdiv(n, _ROWS)](
        x,
        weight,
        scale,
        bias,
        out,
        n,
        inputs,
        outputs,
        float(linear_limit(inputs)),
        SMALLEST=SMALLEST_INPUT,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        STEP=_STEP,
        **one_rounding(),
    )


@triton.jit
def linear_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    out_ptr,
    rows,
    inputs,
    outputs,
    limit,
    SMALLEST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row_ok = row < rows
    column_ok = column < outputs
    place = tl.arange(0, STEP)

    largest = tl.zeros((ROWS,), tl.float32)
    for start in range(0, inputs, STEP):
        ok = row_ok[:, None] & (start + place < inputs)[None, :]
        x = tl.load(x_ptr + row[:, None] * inputs + (start + place)[None, :], mask=ok, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(x), axis=1))
    safe = tl.maximum(largest, SMALLEST)
    factor = tl.where(largest < SMALLEST, 0.0, tl.div_rn(safe * 0 + limit, safe))

    low = tl.zeros((ROWS, COLUMNS), tl.int32)
    high = tl.zeros((ROWS, COLUMNS), tl.int32)
    weights = tl.zeros((COLUMNS,), tl.int32)
    for start in range(0, inputs, STEP):
        at_ok = start + place < inputs
        ok = row_ok[:, None] & at_ok[None, :]
        x = tl.load(x_ptr + row[:, None] * inputs + (start + place)[None, :], mask=ok, other=0.0)
        # Adding 1.5 * 2**23 rounds to an integer, half to even, as float32 additions do.
        rounded = (x * factor[:, None] + 12582912.0) - 12582912.0
        value = rounded.to(tl.int32)
        ok = column_ok[None, :] & at_ok[:, None]
        at = weight_ptr + column[None, :] * inputs + (start + place)[:, None]
        w = tl.load(at, mask=ok, other=0)
        low = tl.dot(((value & 255) - 128).to(tl.int8), w, low, out_dtype=tl.int32)
        high = tl.dot((value >> 8).to(tl.int8), w, high, out_dtype=tl.int32)
        weights += tl.sum(w.to(tl.int32), axis=0)
    acc = (low + high * 256 + weights[None, :] * 128).to(tl.float32)
    scale = tl.load(scale_ptr + column, mask=column_ok, other=0.0)
    bias = tl.load(bias_ptr + column, mask=column_ok, other=0.0)
    unit = tl.div_rn(safe, safe * 0 + limit)
    logits = acc * (unit[:, None] * scale[None, :]) + bias[None, :]
    at = out_ptr + row[:, None] * outputs + column[None, :]
    tl.store(at, logits, mask=row_ok[:, None] & column_ok[None, :])
