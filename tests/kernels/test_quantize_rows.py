"""Weights, a row of levels per output channel, against the specification."""

import numpy as np
import pytest

from rsquant import kernels
from rsquant.kernels import reference


def rows(shape: tuple[int, int], count: int) -> tuple[np.ndarray, ...]:
    """Weights, levels and thresholds, of which one row's levels are all alike."""
    rng = np.random.default_rng(sum(shape) + count)
    x = rng.standard_normal(shape, dtype=np.float32)
    levels = np.sort(rng.standard_normal((shape[0], count), dtype=np.float32))
    levels[:1] = 0.25
    return x, levels, np.float32(0.5) * (levels[:, :-1] + levels[:, 1:])


@pytest.mark.parametrize("count", [2, 4, 8, 16])
@pytest.mark.parametrize("shape", [(3, 1), (2, 15), (5, 16), (1, 17), (7, 63), (3, 576), (0, 9)])
def test_output_counts_and_sums_equal_the_reference(
    isa: str, shape: tuple[int, int], count: int
) -> None:
    x, levels, thresholds = rows(shape, count)
    out = np.full_like(x, np.nan)
    counts, sums = kernels.quantize_rows(x, levels, thresholds, out)
    expected = reference.quantize_rows(x, levels, thresholds)
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    # At most 576 float64 additions of values below 5: 576 * 2^-53 * 576 * 5 = 2e-10.
    np.testing.assert_allclose(sums, expected[2], rtol=0, atol=2e-10)


def test_values_on_thresholds_go_down_and_nan_takes_level_0(isa: str) -> None:
    levels = np.array([[-1, 0, 1, 3]], dtype=np.float32)
    thresholds = np.array([[-0.5, 0.5, 2]], dtype=np.float32)
    x = np.array([[-0.5, 0.5, 2, np.nan, np.inf]], dtype=np.float32)
    out = np.empty_like(x)
    counts, sums = kernels.quantize_rows(x, levels, thresholds, out)
    assert out.tolist() == [[-1, 0, 1, -1, 3]]
    assert counts.tolist() == [[2, 1, 1, 1]]
    np.testing.assert_array_equal(sums, [[np.nan, 0.5, 2, np.inf]])


def test_instruction_sets_and_threads_give_the_same_bits(isa: str) -> None:
    x, levels, thresholds = rows((300, 1153), 4)
    results = []
    for name, threads in ((isa, 1), (isa, 5), ("scalar", 1)):
        with kernels.force(name):
            out = np.empty_like(x)
            results.append((out, *kernels.quantize_rows(x, levels, thresholds, out, threads)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.tobytes() == two.tobytes()


def test_arguments_that_do_not_fit_are_refused() -> None:
    x, levels, thresholds = rows((3, 20), 4)
    out = np.empty_like(x)
    with pytest.raises(ValueError, match=r"x must be \(O, n\) and levels \(O, L\), got"):
        kernels.quantize_rows(x, levels[:2], thresholds[:2], out)
    with pytest.raises(ValueError, match=r"thresholds must be \(O, L - 1\) for levels \(3, 4\)"):
        kernels.quantize_rows(x, levels, thresholds[:, :2].copy(), out)
    with pytest.raises(ValueError, match=r"L must be one of .*, got 3"):
        kernels.quantize_rows(x, levels[:, :3].copy(), thresholds[:, :2].copy(), out)
    with pytest.raises(ValueError, match="thresholds of a row must ascend"):
        kernels.quantize_rows(x, levels, thresholds[:, ::-1].copy(), out)
    with pytest.raises(ValueError, match="levels must be finite"):
        kernels.quantize_rows(x, np.full_like(levels, np.nan), thresholds, out)
    with pytest.raises(ValueError, match="out must share no memory with x"):
        kernels.quantize_rows(x, levels, thresholds, x)
