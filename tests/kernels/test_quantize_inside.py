"""Activations with a bit per value for backward, and gradients through these bits."""

import math

import numpy as np
import pytest

from rsquant import kernels
from rsquant.kernels import reference

LEVELS = {count: np.linspace(-0.2, 1.1, count, dtype=np.float32) for count in (2, 4, 8, 16)}
# Around a vector, a lane group, a chunk and a block.
SIZES = (0, 1, 15, 17, 255, 256, 257, 4097, 32_768, 33_030)


def values(size: int) -> np.ndarray:
    """Normal values, some 0, some on the ends of the levels, one NaN."""
    x = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    x[::7], x[3::11], x[5::13] = 0, LEVELS[2][-1], LEVELS[2][0]
    x[9::101] = np.nan
    return x


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("bottom", [-math.inf, float(LEVELS[2][0])])
@pytest.mark.parametrize("size", SIZES)
def test_values_statistics_and_gradients_are_those_of_the_separate_steps(
    isa: str, size: int, bottom: float, rectified: bool
) -> None:
    x = values(size)
    grad = np.random.default_rng(1).standard_normal(size, dtype=np.float32)
    behind = np.where(x < 0, np.float32(0), x) if rectified else x
    for levels in LEVELS.values():
        top = float(levels[-1])
        out, expected = np.empty_like(x), np.empty_like(x)
        inside = np.full(kernels.inside_words(size), 0xABCD, dtype=np.uint16)
        counted = kernels.quantize_inside(x, levels, bottom, top, rectified, out, inside)
        separate = kernels.quantize_stats(behind, levels, expected)
        assert out.tobytes() == expected.tobytes()
        for one, two in zip(counted, separate, strict=True):
            np.testing.assert_array_equal(one, two)
        passed = np.empty_like(grad)
        kernels.mask_gradient(grad, inside, passed)
        mask = reference.passes(x, bottom, top, rectified)
        np.testing.assert_array_equal(passed, np.where(mask, grad, 0))


def test_the_number_of_threads_does_not_change_a_bit(isa: str) -> None:
    x, levels = values(700_001), LEVELS[4]
    results = []
    for threads in (1, 3):
        out, passed = x.copy(), np.empty_like(x)
        inside = np.zeros(kernels.inside_words(x.size), dtype=np.uint16)
        counted = kernels.quantize_inside(out, levels, 0.0, 1.0, True, out, inside, threads)
        kernels.mask_gradient(x, inside, passed, threads)
        results.append([a.tobytes() for a in (out, inside, passed, *counted)])
    assert results[0] == results[1]


def test_bits_that_do_not_fit_are_refused() -> None:
    x = values(300)
    bits = np.zeros(32, dtype=np.uint16)
    with pytest.raises(ValueError, match=r"shape \(32,\) for 300 values, got \(16,\)"):
        kernels.mask_gradient(x, bits[:16], x.copy())
    with pytest.raises(TypeError, match="inside must be a numpy array of uint16, got int64"):
        kernels.mask_gradient(x, bits.astype(np.int64), x.copy())
    bits.flags.writeable = False
    with pytest.raises(ValueError, match="inside must be writable"):
        kernels.quantize_inside(x, LEVELS[4], 0, 1, False, x, bits)
