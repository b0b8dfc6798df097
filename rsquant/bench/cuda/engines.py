"""The engines of whole networks. Each turns a size and a batch into a graph that can be replayed.

As in `bench.engines`, an engine is a function of a Case under its name in ENGINES.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from rsquant import runtime
from rsquant.bench.cuda.device import Captured, Device
from rsquant.bench.cuda.fuse import fuse
from rsquant.bench.cuda.inputs import settle
from rsquant.bench.cuda.values import value_bytes
from rsquant.data.transforms import normalise
from rsquant.models.factory import build
from rsquant.models.resnet import LAYERS
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.packed.file import open_packed
from rsquant.packing.write import pack

# Replays that decide which of two forms of a network is the faster one.
_TRIALS = 10


@dataclass(frozen=True)
class Case:
    """What an engine is given.

    Attributes:
        network: in evaluation mode, on the CPU.
        resolution: side of the images in pixels. batch: images per call.
        pixels: (batch, 3, R, R) uint8 on the device; some sets of images.
        folder: where files may be put; lives as long as the benchmark.
        kept: what engines share between cases, under names of their own.
    """

    network: SwitchableNetwork
    device: Device
    resolution: int
    batch: int
    pixels: list[Tensor]
    folder: Path
    kept: dict[Any, Any] = field(default_factory=dict)

    def packed_file(self) -> Path:
        """The packed network, all sizes in one file, written when first asked for."""
        path = self.folder / "packed.rsq"
        if not path.exists():
            pack(self.network, path)
        return path

    def remembered(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


@dataclass(frozen=True)
class Ready:
    """An engine ready for one size and batch.

    Attributes:
        replay: runs one batch; returns at once.
        fill: puts (batch, 3, R, R) uint8 pixels on the device where `replay` reads its images.
        logits: what `replay` writes, (batch, classes).
        eager: the same without a graph.
        tolerance: largest difference between the two, as a share of the largest logit.
        activation_bytes: what a call needs at any one time beside weights and images.
        value_bytes: of these, values between layers, without workspaces of libraries; None where
            that is not known.
        form: which of several forms was the fastest, for the reader.
        file, open: the file it runs, and a call that makes it ready from that file once more.
    """

    replay: Callable[[], object]
    fill: Callable[[Tensor], object]
    logits: Tensor
    eager: Callable[[], Tensor]
    tolerance: float
    activation_bytes: int
    value_bytes: int | None
    form: str
    file: Path | None = None
    open: Callable[[], object] | None = None


Engine = Callable[[Case], Ready]
ENGINES: dict[str, Engine] = {}
REFERENCE = "cudnn_bf16"
_POST = "_post"


def engine(name: str) -> Callable[[Engine], Engine]:
    """Register an engine under the name that `--engines` and the tables use."""

    def register(function: Engine) -> Engine:
        ENGINES[name] = function
        return function

    return register


def fitting(spec: ModelSpec, packs: bool = True) -> tuple[str, ...]:
    """The engines that can run a network: `gpu` needs low bits, `_post` is for our ResNets."""
    low_bit = packs and spec.low_bit
    return tuple(
        name
        for name in ENGINES
        if (low_bit or name != "gpu") and (spec.arch in LAYERS or _POST not in name)
    )


@engine("gpu")
def _gpu(case: Case) -> Ready:
    """The packed network on our kernels; takes uint8 pixels, normalises them itself."""
    path = case.packed_file()

    def load() -> Any:
        return open_session(path, case.device)

    graph = case.remembered("session", load).graph(case.resolution, case.batch)

    def eager() -> Tensor:
        for launch in graph.launches:
            launch.run()
        return graph.logits

    def again() -> None:
        load().graph(case.resolution, case.batch)
        case.device.synchronize()

    return Ready(
        graph.replay,
        graph.images.copy_,
        graph.logits,
        eager,
        0.0,
        graph.activation_bytes,
        graph.activation_bytes,
        "packed",
        path,
        again,
    )


@engine(REFERENCE)
def _cudnn_bf16(case: Case) -> Ready:
    """cuDNN in bfloat16 on the same architecture without its activation quantizers."""
    return _cudnn(case, torch.bfloat16, case.network, "")


@engine("cudnn_fp16")
def _cudnn_fp16(case: Case) -> Ready:
    """The same in float16."""
    return _cudnn(case, torch.float16, case.network, "")


@engine(REFERENCE + _POST)
def _cudnn_bf16_post(case: Case) -> Ready:
    """cuDNN in bfloat16 on the post-activation ResNet, torchvision's: everything can be fused."""
    return _cudnn(case, torch.bfloat16, _post_activation(case), _POST)


@engine("cudnn_fp16" + _POST)
def _cudnn_fp16_post(case: Case) -> Ready:
    """The same in float16."""
    return _cudnn(case, torch.float16, _post_activation(case), _POST)


def _post_activation(case: Case) -> SwitchableNetwork:
    spec = dataclasses.replace(
        case.network.spec, wbits=32, abits=32, block="auto", layer_bits=(), layer_quantizer=()
    )
    return case.remembered("post", lambda: settle(build(spec), case.device))


def _cudnn(case: Case, dtype: torch.dtype, network: SwitchableNetwork, kind: str) -> Ready:
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
    return Ready(
        captured.replay,
        fill,
        captured.output,
        partial(_infer, module, images),
        tolerance,
        captured.bytes,
        values,
        form,
    )


def open_session(path: Path, device: Device) -> Any:
    """A packed file on a device, as a `rsquant.runtime.gpu.GpuSession`."""
    if device.device.type == "cuda":
        return runtime.load(path, device=str(device.device))
    from rsquant.runtime.gpu import GpuSession

    # Triton's interpreter, which `load` has no name for.
    return GpuSession(open_packed(path), "cpu", tune=False, interpolate=True, keep_sizes=16)


def float_peer(
    network: SwitchableNetwork, case: Case, dtype: torch.dtype, fused: bool
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
