"""The GPU's maps without a convolution against `kernels.reference`, exactly."""

import numpy as np
import pytest
import torch
from code_bytes import levels_of

from rsquant.kernels import reference
from rsquant.kernels.gpu import epilogue, words
from rsquant.kernels.gpu.elementwise import elementwise


@pytest.mark.parametrize("basis", [(), (2, 3), (1, 2, 4)])
@pytest.mark.parametrize("channels", [5, 64, 67])
def test_maps_of_floats_and_codes(gpu, basis, channels):
    rng = np.random.default_rng(0)
    given = rng.normal(0, 1, (2, 3, 5, channels)).astype(np.float32)
    if basis:
        given = rng.choice(levels_of(basis), given.shape)
    scale, shift = rng.normal(0, 1, (2, channels)).astype(np.float32)
    add = rng.normal(0, 1, given.shape).astype(np.float32)
    thresholds = np.sort(rng.normal(0, 1, (3, channels)), axis=0).astype(np.float32)
    sign = rng.choice([-1, 1], channels).astype(np.int8)
    levels = levels_of((1, 2))
    v = reference.affine(given, scale, shift) + add
    tables = epilogue.tables(scale, shift, sign, thresholds, levels, True, 0.7, False, gpu)
    x = torch.from_numpy(given)
    if basis:
        field_of = words.field_of_byte(basis)
        fields = torch.from_numpy(np.vectorize(field_of.get)(given))
        x = words.pack(fields, words.field_bits(len(basis)))
    keep = torch.empty(given.shape, device=gpu)
    codes = torch.empty(2, 3, 5, words.words_of(channels, 2), dtype=torch.int32, device=gpu)
    elementwise(x.to(gpu), channels, tables, basis, torch.from_numpy(add).to(gpu), keep, codes)
    np.testing.assert_array_equal(keep.cpu().numpy(), reference.clamp(v, True, 0.7))
    np.testing.assert_array_equal(
        words.unpack(codes.cpu(), channels, 2).numpy(),
        reference.to_codes(v, thresholds, sign, levels),
    )
