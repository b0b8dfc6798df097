"""The fused quantizer against its specification, natively or in Triton's interpreter."""

import numpy as np
import pytest
import torch

from rsquant.kernels import reference
from rsquant.kernels.gpu import quantize
from rsquant.quantizers import codes, grid, qem

SIZES = (1, 63, 64, 65, 1023, 5000)
BITS = (1, 2, 3, 4)
# Roundings of a sum (derived in kernels/gpu/quantize.py), of the sum of absolute values.
SUM_ERROR = 8 * 2.0**-24
# Counts and the fit are float64, the stored basis float32: two roundings when it moves.
ROUNDING = 2 * 2.0**-23


def values(*shape, seed=0):
    """Normal values, a third of them exactly 0 as after a ReLU."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    x[rng.random(shape) < 1 / 3] = 0
    return x


def a_basis(bits, seed=0):
    """Not evenly spaced, unsorted, some negative."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(bits).astype(np.float32))


def run(x, basis, device, limit=0, stats=True):
    """(rounded, level, counts, sums) as numpy arrays."""
    moved = torch.as_tensor(x).to(device)
    rounded, level, partial = quantize.quantize_activations(moved, basis.to(device), limit, stats)
    counts, sums = partial.sum(1)
    made = rounded.float(), level, counts, sums
    return tuple(t.cpu().numpy() for t in made)


def assert_equals_reference(x, basis, device):
    rounded, level, counts, sums = run(x, basis, device)
    expected_level, _ = codes.sorted_levels(basis, codes.patterns(basis.numel(), signed=False))
    # At most three additions; which two are made first is not fixed.
    np.testing.assert_allclose(level, expected_level, rtol=0, atol=3 * 2**-23)
    expected, expected_counts, expected_sums = reference.quantize_stats(x, level)
    np.testing.assert_array_equal(rounded, expected)
    np.testing.assert_array_equal(counts, expected_counts)
    taken = (x[..., None] > reference.thresholds(level)).sum(-1)
    magnitudes = np.bincount(taken.ravel(), np.abs(x).ravel(), level.size)
    assert (np.abs(sums - expected_sums) <= SUM_ERROR * magnitudes).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_output_counts_and_sums_equal_the_reference(gpu, size, bits):
    assert_equals_reference(values(size), a_basis(bits), gpu)


@pytest.mark.parametrize("programs", [1, 2])
def test_a_program_takes_several_tiles_where_there_are_many(gpu, programs, monkeypatch):
    monkeypatch.setattr(quantize, "_PROGRAMS", programs)
    assert_equals_reference(values(9001), a_basis(2), gpu)


@pytest.mark.parametrize(
    "basis",
    [[1.0, 1.0], [0.0, 0.5], [0.0, 0.0], [-0.5, 0.5], [-1.0, -2.0], [2.0, 1.0, -3.0]],
    ids=str,
)
def test_equal_negative_and_unsorted_levels_are_counted_as_specified(gpu, basis):
    # Below zero, what fills the last tile exceeds every threshold.
    assert_equals_reference(values(65), torch.tensor(basis), gpu)


def test_a_value_on_a_threshold_goes_down(gpu):
    x = np.array([0.5, 1.5, 2.5], dtype=np.float32)
    basis = torch.tensor([1.0, 2.0])
    np.testing.assert_array_equal(run(x, basis, gpu)[0], [0, 1, 2])
    np.testing.assert_array_equal(run(np.nextafter(x, np.float32(9)), basis, gpu)[0], [1, 2, 3])


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, 0), (-np.inf, 0), (np.inf, 3)], ids=["nan", "-inf", "inf"]
)
def test_nan_and_infinity_change_only_the_sum_of_their_level(gpu, value, code):
    x, basis = values(300), torch.tensor([1.0, 2.0])
    x[100] = code  # takes the same level
    _, _, clean_counts, clean_sums = run(x, basis, gpu)
    x[100] = value
    rounded, _, counts, sums = run(x, basis, gpu)
    assert rounded[100] == code
    np.testing.assert_array_equal(counts, clean_counts)
    clean_sums[code] = value
    np.testing.assert_array_equal(sums, clean_sums)


def test_many_equal_values_keep_the_sum_within_its_bound(gpu):
    # The worst case of summation: all roundings go the same way.
    x = np.full(50_001, 0.1, dtype=np.float32)
    _, _, counts, sums = run(x, torch.tensor([1.0]), gpu)
    assert counts.tolist() == [50_001, 0]
    assert abs(sums[0] / (50_001 * float(np.float32(0.1))) - 1) <= SUM_ERROR


def test_a_small_level_keeps_its_digits_beside_a_large_one(gpu):
    x = np.full(10_000, 1000, dtype=np.float32)
    x[::100] = 1e-3
    _, _, counts, sums = run(x, torch.tensor([1000.0]), gpu)
    assert counts.tolist() == [100, 9900]
    assert abs(sums[0] / (100 * float(np.float32(1e-3))) - 1) <= SUM_ERROR


@pytest.mark.parametrize(
    "dense",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.permute(3, 1, 0, 2),
        lambda x: x.flatten()[1:],
    ],
    ids=["channels_last", "permuted", "not aligned"],
)
def test_values_are_taken_in_the_order_of_memory(gpu, dense):
    x = dense(torch.from_numpy(values(2, 3, 5, 7)).to(gpu))
    basis = torch.tensor([0.4, 0.9])
    rounded, level, partial = quantize.quantize_activations(x, basis.to(gpu), 0, True)
    expected, counts, _ = reference.quantize_stats(x.cpu().numpy(), level.cpu().numpy())
    assert rounded.stride() == x.stride()
    np.testing.assert_array_equal(rounded.cpu(), expected)
    np.testing.assert_array_equal(partial.sum(1)[0].cpu(), counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [65, 5000])
def test_16_bit_values_are_compared_and_added_in_float32(gpu, size, dtype):
    x = torch.from_numpy(values(size)).to(dtype)
    # Levels that need no rounding: the interpreter cuts bfloat16 off where a GPU rounds it.
    basis = torch.tensor([0.375, 0.875] if gpu.type == "cpu" else [0.4, 0.9])
    rounded, level, counts, sums = run(x, basis, gpu)
    exact = x.float().numpy()
    expected, expected_counts, expected_sums = reference.quantize_stats(exact, level)
    np.testing.assert_array_equal(rounded, torch.from_numpy(expected).to(dtype).float())
    np.testing.assert_array_equal(counts, expected_counts)
    assert (np.abs(sums - expected_sums) <= SUM_ERROR * np.abs(exact).sum(dtype=np.float64)).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("limit", [1, 15, 31, 32, 127])
def test_levels_lie_on_the_grid_of_the_specification(gpu, limit, bits):
    basis = a_basis(bits, seed=limit)
    level = run(values(1), basis, gpu, limit)[1]
    expected, _ = codes.sorted_levels(
        grid.snapped(basis, limit, signed=False), codes.patterns(bits, signed=False)
    )
    # A scale is rounded once on each way to it, and so is each of at most three additions.
    largest = float(np.abs(expected.numpy()).max())
    np.testing.assert_allclose(level, expected, rtol=0, atol=8 * 2**-24 * largest)


def test_without_counts_the_rounding_is_the_same(gpu):
    x, basis = values(5000), torch.tensor([0.4, 0.9])
    rounded, level, partial = quantize.quantize_activations(
        torch.from_numpy(x).to(gpu), basis.to(gpu), 15, stats=False
    )
    with_counts = run(x, basis, gpu, limit=15)
    np.testing.assert_array_equal(rounded.cpu(), with_counts[0])
    np.testing.assert_array_equal(level.cpu(), with_counts[1])
    assert partial.shape == (2, 0, 4)


def test_nothing_to_quantize_counts_nothing(gpu):
    rounded, level, counts, sums = run(values(0), torch.tensor([0.4, 0.9]), gpu)
    assert rounded.shape == (0,)
    assert level.size == 4
    assert not counts.any() and not sums.any()


def moved(basis, counts, sums, *, signed, limit=0, ridge=None):
    """Where the specification moves a basis, float64."""
    bits = basis.shape[-1]
    pattern = codes.patterns(bits, signed)
    _, order = codes.sorted_levels(grid.snapped(basis, limit or None, signed), pattern)
    fitted = qem.fit_basis(counts, sums, pattern[order], basis, ridge)
    return 0.9 * basis.double() + 0.1 * fitted


def assert_moved(got, expected):
    largest = expected.abs().amax(-1, keepdim=True)
    assert ((got.cpu().double() - expected).abs() <= ROUNDING * largest).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("limit", [0, 15])
@pytest.mark.parametrize("parts", [1, 5, 4099])
def test_the_activation_basis_moves_as_specified(gpu, parts, limit, bits):
    rng = np.random.default_rng(bits)
    basis = a_basis(bits)
    counts = rng.integers(1, 1000, (parts, 2**bits))
    sums = rng.normal(size=counts.shape) * counts
    partial = torch.from_numpy(np.stack([counts, sums]))
    expected = moved(basis, *partial.sum(1), signed=False, limit=limit)
    got = basis.to(gpu, copy=True)
    quantize.move_activation_basis(got, partial.to(gpu), limit, 0.9)
    assert_moved(got, expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("populated", [(), (0,), (-1,), (0, -1), (0, 1)])
def test_a_basis_stays_where_the_data_says_nothing(gpu, populated, bits):
    basis = 0.3 * 2.0 ** torch.arange(bits)
    partial = torch.zeros((2, 1, 2**bits), dtype=torch.float64)
    for level in populated:
        partial[:, 0, level] = torch.tensor([1e6, 0.7e6])
    got = basis.to(gpu, copy=True)
    quantize.move_activation_basis(got, partial.to(gpu), 0, 0.9)
    # The ridge is 1e-8 of a singular matrix: 1e-16 of rounding, divided by it, remains.
    expected = moved(basis, *partial.sum(1), signed=False)
    np.testing.assert_allclose(got.cpu(), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_never_enter_a_basis(gpu, bad):
    basis = torch.tensor([0.3, 0.6])
    partial = torch.tensor([[[1.0, 1, 1, 1]], [[0, 0.3, bad, 0.9]]], dtype=torch.float64)
    got = basis.to(gpu, copy=True)
    quantize.move_activation_basis(got, partial.to(gpu), 0, 0.9)
    assert_moved(got, basis.double())


def rows_of(weight, basis, limit):
    """Rounded rows, counts and sums of the specification."""
    pattern = codes.patterns(basis.shape[1], signed=True)
    level, _ = codes.sorted_levels(grid.snapped(basis, limit or None, signed=True), pattern)
    made = [
        reference.quantize_stats(row.numpy(), level[index].numpy())
        for index, row in enumerate(weight.flatten(1))
    ]
    rounded, counts, sums = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
    return rounded.view_as(weight), counts, sums


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [1, 9, 65, 2100])
def test_rows_are_rounded_and_their_bases_moved_as_specified(gpu, size, bits):
    weight = torch.from_numpy(values(3, size)) * torch.tensor([[0.01], [0.1], [1.0]])
    basis = torch.tensor([[0.01], [0.1], [1.0]]) * 2.0 ** torch.arange(bits) / 2**bits
    got = basis.to(gpu, copy=True)
    rounded = quantize.quantize_weights(weight.to(gpu), got, 0, qem.WEIGHT_RIDGE, 0.9)
    expected, counts, sums = rows_of(weight, basis, 0)
    np.testing.assert_array_equal(rounded.cpu(), expected)
    target = moved(basis, counts, sums, signed=True, ridge=qem.WEIGHT_RIDGE)
    # An error of the sums, magnified by the inverse of B'B + ridge.
    pattern = codes.patterns(bits, signed=True)
    _, order = codes.sorted_levels(basis, pattern)
    made = pattern[order].double()
    gram = made.transpose(1, 2) @ (made * counts.double().unsqueeze(-1))
    inverse = torch.linalg.inv(gram + qem.WEIGHT_RIDGE * torch.eye(bits)).abs().sum(-1)
    from_sums = 0.1 * inverse * SUM_ERROR * weight.abs().sum(1, keepdim=True)
    limit = from_sums + ROUNDING * target.abs().amax(1, keepdim=True)
    assert ((got.cpu().double() - target).abs() <= limit).all()


def test_rows_keep_their_order_of_memory_and_grid(gpu):
    weight = torch.from_numpy(values(4, 8, 3, 3)).contiguous(memory_format=torch.channels_last)
    basis = torch.tensor([0.4, 0.7]).repeat(4, 1)
    got = basis.to(gpu, copy=True)
    rounded = quantize.quantize_weights(weight.to(gpu), got, 14, qem.WEIGHT_RIDGE, None)
    assert rounded.stride() == weight.stride()
    # The levels of (0.4, 0.7) on a grid of 14 are the same in float32 in any order of additions.
    np.testing.assert_array_equal(rounded.cpu(), rows_of(weight, basis, 14)[0])
    assert torch.equal(got.cpu(), basis)


def test_dead_constant_and_broken_rows_leave_a_finite_basis(gpu):
    weight = torch.from_numpy(values(5, 70))
    weight[0], weight[1], weight[2], weight[3, 5] = 0.0, 1.0, 1e-30, float("nan")
    basis = torch.full((5, 2), 0.2)
    got = basis.to(gpu, copy=True)
    for _ in range(5):
        quantize.quantize_weights(weight.to(gpu), got, 0, qem.WEIGHT_RIDGE, 0.9)
    assert torch.isfinite(got).all()
    assert_moved(got[3], basis[3].double())


def test_no_rows_are_no_work(gpu):
    for shape in ((0, 9), (3, 0)):
        weight = torch.empty(shape, device=gpu)
        basis = torch.full((shape[0], 2), 0.2, device=gpu)
        assert quantize.quantize_weights(weight, basis, 0, 1e-4, 0.9).shape == shape


@pytest.mark.parametrize("dtype", quantize.DTYPES)
@pytest.mark.parametrize("size", [0, *SIZES])
@pytest.mark.parametrize("below", [False, True])
def test_the_gradient_passes_between_the_end_levels(gpu, size, dtype, below):
    grad = torch.from_numpy(values(size, seed=1)).to(dtype)
    x = torch.from_numpy(values(size)).to(dtype)
    level = torch.tensor([-1.0, 0.3])
    got = quantize.clip_gradient(grad.to(gpu), x.to(gpu), level.to(gpu), below)
    assert got.dtype == dtype
    bottom = level[0].item() if below else -np.inf
    expected = reference.clip_gradient(
        grad.float().numpy(), x.float().numpy(), bottom, level[-1].item()
    )
    np.testing.assert_array_equal(got.float().cpu(), expected)


def test_the_gradient_stops_above_the_top_and_at_nan(gpu):
    top = np.float32(0.3)
    x = torch.tensor([top, np.nextafter(top, np.float32(1)), np.nan, np.inf, -np.inf, 0])
    grad = torch.tensor([1, np.nan, 1, 1, 1, np.nan])
    got = quantize.clip_gradient(grad.to(gpu), x.to(gpu), torch.tensor([0.0, 0.3]).to(gpu))
    np.testing.assert_array_equal(got.cpu(), [1, 0, 0, 0, 1, np.nan])


def test_the_same_values_give_the_same_bits(gpu):
    x, basis = values(9001), torch.tensor([0.4, 0.9])
    first = run(x, basis, gpu)
    for one, other in zip(first, run(x, basis, gpu), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [30_000_000, 10_000_019])
def test_large_tensors_equal_the_reference(gpu, size, bits):
    if gpu.type != "cuda":
        pytest.skip("no CUDA device")
    assert_equals_reference(values(size), a_basis(bits), gpu)


@pytest.mark.gpu
def test_more_than_two_to_the_31_values_are_counted(gpu):
    if gpu.type != "cuda":
        pytest.skip("no CUDA device")
    size = 2**31 + 65
    if torch.cuda.mem_get_info()[0] < 12 * size:
        pytest.skip("too little device memory")
    x = torch.zeros(size, dtype=torch.bfloat16, device=gpu)
    x[-3:] = 2.0
    basis = torch.tensor([1.0], device=gpu)
    rounded, level, partial = quantize.quantize_activations(x, basis, 0, True)
    assert partial.sum(1).tolist() == [[size - 3, 3], [0, 6]]
    assert rounded[-4:].tolist() == [0, 1, 1, 1]
    clipped = quantize.clip_gradient(torch.ones_like(x), x, level)
    assert clipped[-4:].tolist() == [1, 0, 0, 0]
    assert clipped.sum(dtype=torch.float64) == size - 3
