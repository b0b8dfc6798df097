"""Functions by table against torch in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rsquant.packed import functions

# By name in files: parameters, and torch's.
TORCH = {
    "abs": ([()], torch.abs),
    "celu": ([(1.0,), (0.3,), (7.0,)], functional.celu),
    "elu": ([(1.0,), (0.5,), (-2.0,)], functional.elu),
    "gelu": ([()], functional.gelu),
    "gelu_tanh": ([()], lambda x: functional.gelu(x, approximate="tanh")),
    "hardsigmoid": ([()], functional.hardsigmoid),
    "hardswish": ([()], functional.hardswish),
    "leaky_relu": ([(0.01,), (-0.3,), (2.0,)], functional.leaky_relu),
    "logsigmoid": ([()], functional.logsigmoid),
    "mish": ([()], functional.mish),
    "selu": ([()], functional.selu),
    "sigmoid": ([()], torch.sigmoid),
    "silu": ([()], functional.silu),
    "softplus": ([(1.0,), (20.0,), (0.1,)], lambda x, b: functional.softplus(x, b, 40)),
    "tanh": ([()], torch.tanh),
}
CASES = [(name, given) for name, (several, _) in TORCH.items() for given in several]


def test_every_function_is_compared():
    assert TORCH.keys() == functions.FUNCTIONS.keys()


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_the_largest_error_is_the_one_that_is_said(name, parameters):
    table = functions.table(name, parameters)
    stretch = -table.low / 20
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.uniform(-25, 25, 40000) * stretch,
            rng.normal(0, 1, 20000) * stretch,
            np.array([0.0, -0.0, 3, -3, 20, -20, 1e-30, -1e-30, 1e4, -1e4]) * stretch,
            table.low + table.step * np.arange(functions.INTERVALS + 1),
        ]
    ).astype(np.float32)
    expected = TORCH[name][1](torch.from_numpy(x).double(), *parameters).numpy()
    width = max(stretch, 1.0, abs(parameters[0]) if name in ("celu", "elu") else 1.0)
    error = np.abs(table(x).astype(np.float64) - expected)
    assert (error <= 5e-7 * width + 2e-7 * np.abs(expected)).all()


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_codes_are_exact_to_the_rounding_of_float32(name, parameters):
    scale, zero = 0.37, 96
    x = scale * (torch.arange(256).double() - zero)
    found = functions.of_codes(name, parameters, scale, zero)
    expected = TORCH[name][1](x, *parameters).numpy()
    assert found.dtype == np.float32
    # Half a unit, and what float64 leaves of sums of numbers of opposite sign.
    assert (np.abs(found - expected) <= 2.0**-24 * np.abs(expected) + 1e-14).all()


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("bound", [0.0, 1e-3, 0.7, 5.0, 1e6, 1e30])
def test_no_value_is_larger_than_the_bound(name, parameters, bound):
    table = functions.table(name, parameters)
    x = np.concatenate([np.linspace(-bound, bound, 10001), np.linspace(-1, 1, 10001)])
    x = x[np.abs(x) <= bound].astype(np.float32)
    assert np.abs(table(x)).max() <= table.largest(bound)
