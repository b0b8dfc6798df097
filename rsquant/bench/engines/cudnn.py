"""cuDNN through PyTorch: the same architecture without activation quantizers, and one layer."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, fx, nn

from rsquant.bench.cuda.device import Captured, Device
from rsquant.bench.cuda.forms import Form
from rsquant.bench.cuda.fuse import FusedConv, fuse
from rsquant.bench.cuda.inputs import settle
from rsquant.bench.cuda.values import value_bytes
from rsquant.bench.engines.base import CudaCase, CudaRun, cuda_engine
from rsquant.bench.engines.layer import LayerCall, inferring
from rsquant.data.transforms import normalise
from rsquant.models.factory import build
from rsquant.models.resnet import LAYERS
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import SwitchableNetwork

REFERENCE = "cudnn_bf16"
DTYPES = {REFERENCE: torch.bfloat16, "cudnn_fp16": torch.float16}
_POST = "_post"
# Replays that decide which of two forms of a network is the faster one.
_TRIALS = 10


def _no_post_activation_form(network: SwitchableNetwork) -> str:
    arch = network.spec.arch
    return "" if arch in LAYERS else f"{arch} has no post-activation form here, ResNets have"


@cuda_engine(REFERENCE)
def bf16(case: CudaCase) -> CudaRun:
    """cuDNN in bfloat16 on the same architecture without its activation quantizers."""
    return _cudnn(case, torch.bfloat16, case.network, "")


@cuda_engine("cudnn_fp16")
def fp16(case: CudaCase) -> CudaRun:
    """The same in float16."""
    return _cudnn(case, torch.float16, case.network, "")


@cuda_engine(REFERENCE + _POST, _no_post_activation_form)
def bf16_post(case: CudaCase) -> CudaRun:
    """cuDNN in bfloat16 on the post-activation ResNet, torchvision's: everything can be fused."""
    return _cudnn(case, torch.bfloat16, _post_activation(case), _POST)


@cuda_engine("cudnn_fp16" + _POST, _no_post_activation_form)
def fp16_post(case: CudaCase) -> CudaRun:
    """The same in float16."""
    return _cudnn(case, torch.float16, _post_activation(case), _POST)


def _post_activation(case: CudaCase) -> SwitchableNetwork:
    spec = dataclasses.replace(
        case.network.spec,
        wbits=32,
        abits=32,
        grid="none",
        block="auto",
        layer_bits=(),
        layer_quantizer=(),
        integer=False,
        weight_norm="none",
    )
    return case.remembered("post", lambda: settle(build(spec), case.device))


def _cudnn(case: CudaCase, dtype: torch.dtype, network: SwitchableNetwork, kind: str) -> CudaRun:
    """The faster of PyTorch's own form and the one with cuDNN's fused convolutions."""
    device, spec = case.device, case.network.spec
    images = torch.empty(
        case.batch,
        3,
        case.resolution,
        case.resolution,
        dtype=dtype,
        device=device.device,
        memory_format=torch.channels_last,
    )

    def fill(pixels: Tensor) -> None:
        images.copy_(normalise(pixels, spec.mean, spec.std))

    fill(case.pixels[0])
    convolutions = sum(isinstance(m, nn.Conv2d) for m in network.modules())
    # Every convolution rounds its output, half a unit in the last place; two runs may add up in
    # another order, and then differ by that much after each of them.
    tolerance = convolutions * torch.finfo(dtype).eps / 2
    forms: dict[str, tuple[Captured, nn.Module, float]] = {}
    for fused in (False, True):
        name = (case.resolution, dtype, kind, fused)
        module = case.remembered(name, partial(float_peer, network, case, dtype, fused))
        if module is None:
            continue
        # Garbage freed during the capture would be missing in its bytes.
        gc.collect()
        captured = device.capture(partial(_infer, module, images))
        if fused and difference(captured.output, forms["plain"][0].output) > tolerance:
            continue
        forms["fused" if fused else "plain"] = captured, module, _fastest(device, captured.replay)
    form = min(forms, key=lambda name: forms[name][2])
    captured, module, _ = forms[form]
    values = value_bytes(module, images) if isinstance(module, fx.GraphModule) else None
    return CudaRun(
        captured.replay,
        fill,
        captured.output,
        partial(_infer, module, images),
        tolerance,
        captured.bytes,
        values,
        form,
    )


def float_peer(
    network: SwitchableNetwork, case: CudaCase, dtype: torch.dtype, fused: bool
) -> nn.Module | None:
    """The network at a size in plain torch, BatchNorms folded; None if nothing can be fused."""
    module = fold_batchnorms(freeze(network, case.resolution, activation=False)).module
    if fused and not (isinstance(module, fx.GraphModule) and fuse(module)):
        return None
    return module.to(device=case.device.device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _infer(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(images)


def difference(logits: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected logit; infinite where one is NaN."""
    error = (logits.float() - expected.float()).abs().max() / expected.float().abs().max()
    return float(torch.nan_to_num(error, nan=float("inf")))


def _fastest(device: Device, replay: Callable[[], object]) -> float:
    replay()
    return min(device.seconds(replay) for _ in range(_TRIALS))


def convolution(form: Form, dtype: torch.dtype, device: Device) -> list[LayerCall]:
    """A convolution with bias, and the same with a ReLU in one kernel where cuDNN has it.

    Where ours adds a residual sum, so do these. PyTorch adds bias and sum in passes of their own,
    so the second may be faster though it does more. Inputs are random and not negative, channels
    innermost.
    """
    at = device.device
    generator = torch.Generator(at).manual_seed(0)

    def values(channels: int, height: int, width: int) -> Tensor:
        shape = (form.batch, channels, height, width)
        drawn = torch.randn(shape, device=at, generator=generator).clamp_(min=0)
        return drawn.to(dtype=dtype, memory_format=torch.channels_last)

    x = values(form.in_channels, form.height, form.width)
    z = None
    conv = nn.Conv2d(
        form.in_channels,
        form.out_channels,
        form.kernel,
        form.stride,
        form.padding,
        form.dilation,
        form.groups,
        device=at,
    ).requires_grad_(False)
    conv = conv.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = dtype.itemsize
    moved = form.bytes(size, size, size, size)
    if "add" in form.epilogue:
        z = values(form.out_channels, form.out_height, form.out_width)
        moved += z.nbytes
    fused = FusedConv(conv)
    call = inferring(fused, x, z)
    call()
    plain = LayerCall(inferring(_WithSum(conv), x, z), moved, "plain")
    return [plain, LayerCall(call, moved, "fused")] if fused.available else [plain]


class _WithSum(nn.Module):
    """conv(x) + bias, + z if there is one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        result: Tensor = self.conv(x)
        return result if z is None else result.add_(z)
