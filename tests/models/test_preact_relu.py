"""Blocks whose quantizers take the ReLU into their own pass, beside the separate modules."""

import copy

import pytest
import torch
from torch import nn

from rsquant.models.preact_resnet import Activation
from rsquant.quantizers import make_activations


def pair(quantizer: str = "lq", signed: bool = False) -> tuple[Activation, Activation]:
    """The same layers twice; a hook makes the second run them one by one."""
    fused = Activation(
        nn.BatchNorm2d(5), nn.ReLU(inplace=True), make_activations(quantizer, 2, signed, None)
    )
    separate = copy.deepcopy(fused)
    separate[1].register_forward_hook(lambda *_: None)
    return fused, separate


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("quantizer", ["lq", "lsq", "uniform"])
def test_values_gradients_and_bases_are_those_of_separate_modules(
    quantizer: str, training: bool, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, 9).contiguous(memory_format=memory_format)
    grad = torch.randn(3, 5, 7, 9)
    results = []
    for module in pair(quantizer):
        module.train(training)
        own = x.clone().requires_grad_()
        for _ in range(2):
            y = module(own)
            y.backward(grad)
        norm = module[0].weight.grad
        results.append((y.detach(), own.grad, norm, *module.state_dict().values()))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_the_input_of_the_norm_is_left_alone_and_no_gradient_is_needed() -> None:
    fused, separate = pair()
    x = torch.randn(2, 5, 4, 4)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), separate(x), rtol=0, atol=0)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_a_hook_of_a_user_sees_its_layer_run() -> None:
    fused, _ = pair()
    seen = []
    fused[2].register_forward_pre_hook(lambda _, given: seen.append(float(given[0].detach().min())))
    fused(torch.randn(2, 5, 4, 4))
    assert seen == [0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_separate_modules(dtype: torch.dtype) -> None:
    fused, separate = (module.to(dtype) for module in pair())
    x = torch.randn(2, 5, 4, 4, dtype=dtype)
    torch.testing.assert_close(fused(x), separate(x), rtol=0, atol=0)
    assert fused(x).dtype == dtype
