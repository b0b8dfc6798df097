"""The GPU's poolings against `kernels.reference`, exactly."""

import numpy as np
import pytest
import torch
from code_bytes import levels_of

from rsquant.kernels import reference
from rsquant.kernels.gpu import words
from rsquant.kernels.gpu.pool import average_pool, max_pool


@pytest.mark.parametrize("basis", [(), (1,), (2, 3), (3, 4, 5), (1, 2, 4, 8)])
def test_max_pool_of_codes_and_floats(gpu, basis):
    rng = np.random.default_rng(0)
    if basis:
        x = rng.choice(levels_of(basis), (2, 9, 8, 37))
        field_of, field = words.field_of_byte(basis), words.field_bits(len(basis))
        fields = torch.from_numpy(np.vectorize(field_of.get)(x))
        given = words.pack(fields, field).to(gpu)
    else:
        x = rng.normal(0, 1, (2, 9, 8, 37)).astype(np.float32)
        given = torch.from_numpy(x).to(gpu)
    # Windows of 3 x 2 pixels, the first row's without its padding; dilated by 2 across.
    rows = np.int32([[0, 2], [1, 4], [3, 6], [5, 8], [7, 9]])
    columns = np.int32([[i, i + 3] for i in range(6)])
    expected = reference.max_pool(x, rows, columns, (1, 2))
    out = torch.full((*expected.shape[:3], given.shape[3]), -1, dtype=given.dtype, device=gpu)
    tables = [torch.from_numpy(spans).to(gpu) for spans in (rows, columns)]
    max_pool(given, out, *tables, (3, 2), (1, 2), basis)
    found = out.cpu()
    if basis:
        bits = words.unpack(found, 37, field).numpy()
        found = sum(q * (bits >> k & 1) for k, q in enumerate(basis))
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("relu", [False, True])
def test_average_pool_adds_in_the_order_of_rows(gpu, relu):
    rng = np.random.default_rng(0)
    x = (rng.normal(0, 1, (3, 5, 7, 45)) * 10.0 ** rng.integers(-3, 4, (1, 5, 7, 1))).astype("f4")
    scale, shift = rng.normal(0, 1, (2, 45)).astype(np.float32)
    expected = reference.average_pool(x, scale, shift, relu, 6.0)
    out = torch.empty(3, 1, 1, 45, device=gpu)
    x, scale, shift = (torch.from_numpy(a).to(gpu) for a in (x, scale, shift))
    average_pool(x, scale, shift, 0.0 if relu else -np.inf, 6.0, out)
    np.testing.assert_array_equal(out.cpu().numpy(), expected)
