"""The clipped straight-through gradient against its specification."""

import numpy as np
import pytest

from rsquant import kernels
from rsquant.kernels import reference


def pair(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return (
        rng.standard_normal(size, dtype=np.float32),
        rng.standard_normal(size, dtype=np.float32),
    )


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 4097, 1_000_001])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bottom", [-np.inf, -0.4])
def test_the_gradient_passes_between_the_end_levels(
    isa: str, size: int, threads: int, bottom: float
) -> None:
    grad, x = pair(size)
    out = np.full_like(grad, np.nan)
    kernels.clip_gradient(grad, x, bottom, 0.3, out, threads)
    np.testing.assert_array_equal(out, reference.clip_gradient(grad, x, bottom, 0.3))


def test_a_value_on_an_end_level_passes_its_gradient(isa: str) -> None:
    top, bottom = np.float32(0.3), np.float32(-0.4)
    beyond = np.nextafter(top, np.float32(1)), np.nextafter(bottom, np.float32(-1))
    x = np.array([top, beyond[0], bottom, beyond[1]] * 8, dtype=np.float32)
    out = np.empty_like(x)
    kernels.clip_gradient(np.ones_like(x), x, float(bottom), float(top), out)
    np.testing.assert_array_equal(out, [1, 0, 1, 0] * 8)


def test_a_nan_activation_passes_no_gradient(isa: str) -> None:
    x = np.array([np.nan, 0, np.inf, -np.inf] * 5, dtype=np.float32)
    out = np.empty_like(x)
    kernels.clip_gradient(np.ones_like(x), x, -np.inf, 1.0, out)
    np.testing.assert_array_equal(out, [0, 1, 0, 1] * 5)


def test_a_clipped_nan_gradient_becomes_0(isa: str) -> None:
    x = np.array([0, 2] * 8, dtype=np.float32)
    out = np.empty_like(x)
    kernels.clip_gradient(np.full_like(x, np.nan), x, -np.inf, 1.0, out)
    np.testing.assert_array_equal(out, [np.nan, 0] * 8)


@pytest.mark.parametrize("target", [0, 1])
def test_either_input_may_be_the_output(isa: str, target: int) -> None:
    inputs = pair(1000)
    expected = reference.clip_gradient(*inputs, -0.5, 0.3)
    kernels.clip_gradient(*inputs, -0.5, 0.3, inputs[target])
    np.testing.assert_array_equal(inputs[target], expected)


def test_shapes_that_differ_are_refused() -> None:
    grad, x = pair(10)
    with pytest.raises(ValueError, match=r"x must have the shape of grad \(10,\), got \(9,\)"):
        kernels.clip_gradient(grad, x[:9], 0.0, 1.0, grad.copy())
    with pytest.raises(ValueError, match=r"out must have the input's shape \(10,\), got \(2, 5\)"):
        kernels.clip_gradient(grad, x, 0.0, 1.0, grad.reshape(2, 5))


def test_a_wrong_type_is_refused_by_name() -> None:
    grad, x = pair(10)
    with pytest.raises(TypeError, match=r"clip_gradient: grad must be .* got float16"):
        kernels.clip_gradient(grad.astype(np.float16), x, 0.0, 1.0, grad.copy())
