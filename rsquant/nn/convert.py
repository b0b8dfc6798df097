"""Make any CNN built from Conv2d, BatchNorm2d and Linear low-bit and resolution switchable."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError, ModelError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear, crashes_backward
from rsquant.nn.resolution import ActiveResolution
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork


def check_bits(wbits: int, abits: int) -> None:
    """Raise ConfigError unless both bit widths are 1 to 4, or 32 for "leave it"."""
    for name, bits in (("wbits", wbits), ("abits", abits)):
        if bits not in (1, 2, 3, 4, 32):
            raise ConfigError(f"{name}: must be 1, 2, 3, 4, or 32 to leave it alone, got {bits}")


def convert(
    network: nn.Module,
    wbits: int = 2,
    abits: int = 2,
    resolutions: Sequence[int] = (224, 192, 160, 128, 96),
    keep: Collection[str] | None = None,
    grid: str = "none",
) -> SwitchableNetwork:
    """A low-bit, resolution-switchable copy of a CNN; the network itself is not changed.

    Every Conv2d and Linear becomes its LQ-quantized form (bases start from the weights' own
    spread; the input of each layer is quantized if `abits` is not 32), every BatchNorm2d gets one
    copy of itself per resolution. torchvision, timm and your own networks work alike.

    Args:
        network: takes (N, 3, H, W) float32, returns (N, classes).
        wbits, abits: 1 to 4, or 32 to leave that side in float32.
        resolutions: training sizes in pixels.
        keep: names of layers left in float32; None keeps the first and the last one that run.
        grid: none, fine or coarse: levels on small integers, see `quantizers.grid`.
    Raises:
        ModelError: no BatchNorm2d, or the network does not run at these resolutions.
        ConfigError: a bit width outside 1 to 4 and 32, or a kept name that does not exist.
    """
    check_bits(wbits, abits)
    active = ActiveResolution(resolutions)
    who = type(network).__name__
    if getattr(network, "aux_logits", False):
        raise ModelError(f"{who}: has auxiliary outputs in training; make it with aux_logits=False")
    # Large enough that the last map's side shows the stride, whatever sizes are trained.
    large = max(active.resolutions[0], 256)
    layers = probe(network, large)
    stride = max(1, round(large / layers.last_side))
    check_smallest(active.resolutions, stride, who)
    # Some networks have a smallest input of their own.
    probe(network, active.resolutions[-1])
    body = copy.deepcopy(network)
    kept = {layers.order[0], layers.order[-1]} if keep is None else set(keep)
    replace_layers(body, active, wbits, abits, kept, layers.signed, grid)
    spec = ModelSpec(
        arch="custom",
        wbits=wbits,
        abits=abits,
        resolutions=active.resolutions,
        num_classes=layers.num_classes,
        stem="own",
        grid=grid,
        block="own",
    )
    return SwitchableNetwork(body, active, spec, stride)


def check_smallest(resolutions: Sequence[int], stride: int, who: str) -> None:
    """Raise ModelError if a resolution is smaller than the network's total stride."""
    if min(resolutions) < stride:
        raise ModelError(
            f"{who}: resolution {min(resolutions)} is smaller than the network's stride of "
            f"{stride} pixels; use {stride} or more"
        )


@dataclass(frozen=True)
class Probe:
    """What one forward pass shows: layers in the order they run, and what they are fed."""

    order: tuple[str, ...]
    signed: frozenset[str]
    last_side: int
    num_classes: int


@torch.no_grad()
def probe(network: nn.Module, size: int) -> Probe:
    """Run one random image of size x size pixels and watch the Conv2d and Linear layers.

    Raises:
        ModelError: the network does not run, returns no (N, classes) tensor, or has no such layer.
    """
    order: list[str] = []
    signed: set[str] = set()
    sides: list[int] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def watch(
                _: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name
            ) -> None:
                order.append(name)
                if args[0].min() < 0:
                    signed.add(name)
                # Squeeze-and-excitation convolves 1 x 1 maps; they say nothing about the stride.
                if output.dim() == 4 and args[0].shape[-1] > 1:
                    sides.append(output.shape[-1])

            handles.append(module.register_forward_hook(watch))
    was_training = network.training
    parameter = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, size, size, generator=generator).to(parameter)
    who = type(network).__name__
    try:
        output = network.eval()(image)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"{who}: does not run on a {size} x {size} image: {reason}") from error
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    if not order:
        raise ModelError(f"{who}: has no Conv2d or Linear layer, nothing to quantize")
    if not isinstance(output, Tensor) or output.dim() != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"{who}: must return logits (N, classes), got {got}")
    return Probe(tuple(order), frozenset(signed), min(sides, default=size), int(output.shape[1]))


def replace_layers(
    body: nn.Module,
    active: ActiveResolution,
    wbits: int,
    abits: int,
    keep: Collection[str],
    signed: Collection[str] = (),
    grid: str = "none",
) -> None:
    """Replace the layers of a network in place; see `convert`.

    Args:
        keep: names of Conv2d and Linear layers that stay.
        signed: names of layers whose input has negative values.
    """
    modules = dict(body.named_modules(remove_duplicate=False))
    missing = [name for name in keep if name not in modules]
    if missing:
        raise ConfigError(f"keep: {type(body).__name__} has no layer named '{missing[0]}'")
    if not any(isinstance(m, nn.BatchNorm2d) for m in modules.values()):
        raise ModelError(
            f"{type(body).__name__}: has no BatchNorm2d; resolutions are switched by BatchNorms, "
            "so use a variant with them (vgg16_bn instead of vgg16)"
        )
    kept = {modules[name] for name in keep}
    made: dict[nn.Module, nn.Module | None] = {}
    for name, module in modules.items():
        # A layer held under two names stays one layer.
        if module not in made:
            bits = (32, 32) if module in kept else (wbits, abits)
            made[module] = _replacement(name, module, active, *bits, name in signed, grid)
        new = made[module]
        if new is not None:
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, new)


def _replacement(
    name: str, module: nn.Module, active: ActiveResolution, wbits: int, abits: int, signed: bool,
    grid: str,
) -> nn.Module | None:  # fmt: skip
    """The layer that takes a module's place, or None if it stays."""
    new: nn.Module | None = None
    quantize = wbits != 32 or abits != 32
    if type(module) is nn.BatchNorm2d:
        new = SwitchableBatchNorm2d.from_float(module, active)
    elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        raise ModelError(
            f"{name}: is a {type(module).__name__}, whose own computation would be lost; "
            "use BatchNorm2d followed by what it adds"
        )
    elif type(module) is nn.Conv2d and (quantize or crashes_backward(module)):
        new = QuantConv2d.from_float(module, wbits, abits, signed, grid)
    elif type(module) is nn.Linear and quantize:
        new = QuantLinear.from_float(module, wbits, abits, signed, grid)
    elif quantize and isinstance(module, (nn.Conv2d, nn.Linear)):
        raise ModelError(
            f"{name}: is a {type(module).__name__}, whose own computation would be lost; "
            "use Conv2d or Linear, or name it in keep to leave it in float32"
        )
    return None if new is None else new.train(module.training)
