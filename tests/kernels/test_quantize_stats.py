"""The fused activation quantizer against its specification, on every instruction set."""

import numpy as np
import pytest

from rsquant import kernels
from rsquant.kernels import reference

# Around a vector (8), a lane group (16), a chunk (256) and a block (32,768), and a large one.
SIZES = (0, 1, 7, 8, 63, 64, 65, 255, 256, 257, 4097, 32_768, 32_769, 1_000_000)
LEVEL_COUNTS = (2, 4, 8, 16)


def activations(size: int, seed: int = 0) -> np.ndarray:
    """Normal values, a third of them exactly 0 as after a ReLU."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(size, dtype=np.float32)
    x[rng.random(size) < 1 / 3] = 0
    return x


def ascending_levels(count: int, seed: int = 0) -> np.ndarray:
    """Not evenly spaced, some negative."""
    return np.sort(np.random.default_rng(seed).standard_normal(count, dtype=np.float32))


def run(x: np.ndarray, levels: np.ndarray, threads: int = 1) -> tuple[np.ndarray, ...]:
    out = np.full_like(x, np.nan)
    counts, sums = kernels.quantize_stats(x, levels, out, threads)
    return out, counts, sums


def assert_equals_reference(x: np.ndarray, levels: np.ndarray) -> None:
    out, counts, sums = run(x, levels)
    expected_out, expected_counts, expected_sums = reference.quantize_stats(x, levels)
    np.testing.assert_array_equal(out, expected_out)
    np.testing.assert_array_equal(counts, expected_counts)
    # 15 float32 additions per lane: 15 * 2^-24 = 8.9e-7 of the sum of absolute values of that
    # level (derived in kernels/cpu/quantize.cpp), plus the float64 roundings.
    for level, value in enumerate(levels):
        magnitude = np.abs(x[expected_out == value]).sum(dtype=np.float64)
        assert abs(sums[level] - expected_sums[level]) <= 1e-6 * magnitude


@pytest.mark.parametrize("count", LEVEL_COUNTS)
@pytest.mark.parametrize("size", SIZES)
def test_output_counts_and_sums_equal_the_reference(isa: str, size: int, count: int) -> None:
    assert_equals_reference(activations(size), ascending_levels(count))


@pytest.mark.parametrize("size", [65, 4097])
def test_the_fill_of_the_last_chunk_is_not_counted_whatever_level_zero_takes(
    isa: str, size: int
) -> None:
    x = activations(size)
    for levels in ([-2, -1, 1, 2], [-4, -3, -2, -1], [1, 2, 3, 4], [-1, 0, 1, 2]):
        assert_equals_reference(x, np.array(levels, dtype=np.float32))


def test_a_value_on_a_threshold_goes_down(isa: str) -> None:
    levels = np.array([0, 1, 2, 3], dtype=np.float32)
    up = np.float32(np.inf)
    x = np.array([0.5, 1.5, 2.5], dtype=np.float32)
    np.testing.assert_array_equal(run(x, levels)[0], [0, 1, 2])
    np.testing.assert_array_equal(run(np.nextafter(x, up), levels)[0], [1, 2, 3])


def test_equal_levels_count_as_the_specification_counts_them(isa: str) -> None:
    x = np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75], dtype=np.float32)
    levels = np.array([0, 1, 1, 2], dtype=np.float32)  # thresholds 0.5, 1, 1.5
    out, counts, sums = run(x, levels)
    np.testing.assert_array_equal(out, [0, 0, 0, 1, 1, 1, 1, 2])
    np.testing.assert_array_equal(counts, [3, 2, 2, 1])
    np.testing.assert_array_equal(sums, [0.75, 1.75, 2.75, 1.75])


def test_levels_that_are_all_equal_split_at_their_value(isa: str) -> None:
    x = np.array([-1, 1, 2], dtype=np.float32)
    out, counts, _ = run(x, np.ones(4, dtype=np.float32))
    np.testing.assert_array_equal(out, [1, 1, 1])
    np.testing.assert_array_equal(counts, [2, 0, 0, 1])


def test_a_level_of_minus_zero_keeps_its_sign(isa: str) -> None:
    out, _, _ = run(np.full(20, -1, dtype=np.float32), np.array([-0.0, 1], dtype=np.float32))
    assert np.signbit(out).all()


def test_negative_values_and_levels_are_quantized_too(isa: str) -> None:
    assert_equals_reference(
        -np.abs(activations(1000)), np.array([-2, -1.5, -0.5, -0.1], dtype=np.float32)
    )


@pytest.mark.parametrize("position", [0, 5, 70, 299])
def test_nan_takes_level_0_and_makes_only_that_sum_nan(isa: str, position: int) -> None:
    x = activations(300)
    levels = np.array([0, 1, 2, 3], dtype=np.float32)
    x[position] = 0
    _, clean_counts, clean_sums = run(x, levels)
    x[position] = np.nan
    out, counts, sums = run(x, levels)
    assert out[position] == 0
    np.testing.assert_array_equal(counts, clean_counts)
    np.testing.assert_array_equal(sums, [np.nan, *clean_sums[1:]])


@pytest.mark.parametrize(("value", "level"), [(np.inf, 3), (-np.inf, 0)])
def test_an_infinity_takes_the_end_level_and_makes_only_that_sum_infinite(
    isa: str, value: float, level: int
) -> None:
    x = activations(300)
    levels = np.array([0, 1, 2, 3], dtype=np.float32)
    x[100] = value
    out, _, sums = run(x, levels)
    assert out[100] == level
    assert sums[level] == value
    assert np.isfinite(np.delete(sums, level)).all()


def test_many_equal_values_keep_the_sum_within_one_millionth(isa: str) -> None:
    # The worst case of summation: all roundings of a lane go the same way.
    x = np.full(1_000_001, 0.1, dtype=np.float32)
    _, counts, sums = run(x, np.array([0, 1], dtype=np.float32))
    assert counts.tolist() == [1_000_001, 0]
    assert abs(sums[0] / (1_000_001 * float(np.float32(0.1))) - 1) < 1e-6


def test_a_small_level_keeps_its_digits_beside_a_large_one(isa: str) -> None:
    x = np.full(100_000, 1000, dtype=np.float32)
    x[::100] = 1e-3
    _, counts, sums = run(x, np.array([0, 1000], dtype=np.float32))
    assert counts.tolist() == [1000, 99_000]
    assert abs(sums[0] / (1000 * float(np.float32(1e-3))) - 1) < 1e-6


@pytest.mark.parametrize("count", LEVEL_COUNTS)
@pytest.mark.parametrize("size", [65, 1_000_001])
def test_the_number_of_threads_does_not_change_a_bit(isa: str, size: int, count: int) -> None:
    x, levels = activations(size), ascending_levels(count)
    once = run(x, levels, threads=1)
    for threads in (2, 3, 64):
        for one, many in zip(once, run(x, levels, threads), strict=True):
            assert one.tobytes() == many.tobytes()


@pytest.mark.parametrize("count", LEVEL_COUNTS)
def test_every_instruction_set_gives_the_same_bits_as_scalar(isa: str, count: int) -> None:
    x, levels = activations(100_003), ascending_levels(count)
    here = run(x, levels)
    with kernels.force("scalar"):
        for one, other in zip(here, run(x, levels), strict=True):
            assert one.tobytes() == other.tobytes()


def test_the_input_may_be_the_output(isa: str) -> None:
    x, levels = activations(40_000), ascending_levels(4)
    expected = run(x, levels)
    in_place = x.copy()
    counts, sums = kernels.quantize_stats(in_place, levels, in_place)
    for one, other in zip(expected, (in_place, counts, sums), strict=True):
        np.testing.assert_array_equal(one, other)


def test_any_shape_and_any_4_byte_alignment_is_taken(isa: str) -> None:
    levels = ascending_levels(4)
    x = activations(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    np.testing.assert_array_equal(run(x, levels)[0], reference.quantize_stats(x, levels)[0])
    odd = activations(1001)[1:]
    np.testing.assert_array_equal(run(odd, levels)[0], reference.quantize_stats(odd, levels)[0])


def test_values_outside_the_array_are_left_alone(isa: str) -> None:
    levels = ascending_levels(4)
    around = np.full(300, 7, dtype=np.float32)
    kernels.quantize_stats(activations(259), levels, around[20:279])
    assert (around[:20] == 7).all()
    assert (around[279:] == 7).all()


X = np.zeros(10, dtype=np.float32)
LEVELS = np.array([0, 1, 2, 3], dtype=np.float32)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (LEVELS[::-1].copy(), r"levels must ascend, got \[3\.0, 2\.0, 1\.0, 0\.0\]; sort"),
        (np.array([0, np.nan], dtype=np.float32), "levels must be finite"),
        (LEVELS[:3].copy(), r"L one of \(2, 4, 8, 16\), got \(3,\)"),
        (LEVELS.reshape(2, 2), r"levels must have shape \(L,\)"),
        (np.zeros(0, dtype=np.float32), r"got \(0,\)"),
    ],
)
def test_levels_that_cannot_be_used_are_refused(levels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"quantize_stats: .*{message}"):
        kernels.quantize_stats(X, levels, X.copy())


def test_a_wrong_type_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="x must be a numpy array of float32, got float64"):
        kernels.quantize_stats(X.astype(np.float64), LEVELS, X.copy())
    with pytest.raises(TypeError, match="levels must be a numpy array of float32, got list"):
        kernels.quantize_stats(X, [0, 1], X.copy())
    with pytest.raises(TypeError, match="out must be a numpy array of float32, got int32"):
        kernels.quantize_stats(X, LEVELS, np.zeros(10, dtype=np.int32))


def test_a_wrong_output_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out must have the input's shape \(10,\), got \(9,\)"):
        kernels.quantize_stats(X, LEVELS, np.zeros(9, dtype=np.float32))
    read_only = X.copy()
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        kernels.quantize_stats(X, LEVELS, read_only)


def test_a_partial_overlap_of_input_and_output_is_refused() -> None:
    memory = np.zeros(11, dtype=np.float32)
    with pytest.raises(ValueError, match="out must be x itself or share no memory with it"):
        kernels.quantize_stats(memory[:10], LEVELS, memory[1:])


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be C-contiguous, got strides \(8,\)"):
        kernels.quantize_stats(np.zeros(20, dtype=np.float32)[::2], LEVELS, X.copy())


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {threads}"):
        kernels.quantize_stats(X, LEVELS, X.copy(), threads)
