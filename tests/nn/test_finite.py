"""Tensors that no healthy network has are named."""

import pytest
import torch

from rsquant.nn.finite import first_bad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "value,message",
    [(float("nan"), "NaN"), (float("inf"), "infinite"), (float("-inf"), "infinite")],
)
def test_values_that_are_no_numbers_are_named(dtype, value, message):
    good, bad = torch.ones(65, dtype=dtype), torch.ones(65, dtype=dtype)
    bad[64] = value
    assert first_bad([("a", good), ("b", bad), ("c", bad)]) == f"b has {message} values"


def test_sizes_beyond_any_network_are_named():
    assert first_bad([("w", torch.tensor([1e29, -1e29]))]) is None
    found = first_bad([("w", torch.tensor([0.0, -2e30]))])
    assert found == "w has values of up to 2.0e+30 (healthy ones stay below 1e+30)"


def test_only_variances_must_not_be_negative():
    value = torch.tensor([1.0, -0.5])
    assert first_bad([("bn.running_mean", value), ("bn.weight", value)]) is None
    found = first_bad([("bn.running_var", value)])
    assert found == "bn.running_var has a negative variance, -5.0e-01"


def test_integers_and_empty_tensors_pass():
    tensors = [("n", torch.tensor(2**62)), ("e", torch.empty(0)), ("s", torch.ones(()))]
    assert first_bad(tensors) is None
