"""One resolution of a switchable network as a plain torch module, with nothing left to switch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rsquant.errors import ModelError
from rsquant.nn.become import become
from rsquant.nn.copying import copied
from rsquant.nn.hooks import check_hooks_only_look
from rsquant.nn.integer.floats import without_rounding
from rsquant.nn.norm import SwitchableBatchNorm1d, SwitchableBatchNorm2d
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.nn.reparametrized import bake_parametrizations, check_no_weight_hooks
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.quantizers import ActivationQuantizer, InputQuantizer
from rsquant.settings import Blend, Variant


class ActivationLevels(nn.Module):
    """Quantize to L fixed levels; a value at a threshold goes down.

    y = levels[l], l = how many thresholds x is strictly greater than. A chain of comparisons
    gives the levels themselves, where a sum of steps would give them up to rounding; it also is
    something every exporter knows.

    Args:
        quantizer: whose levels and thresholds they are.
    """

    levels: Tensor
    thresholds: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.register_buffer("levels", quantizer.levels().detach().clone())
        self.register_buffer("thresholds", quantizer.thresholds().detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.where(x > self.thresholds[0], self.levels[1], self.levels[0])
        for i in range(1, self.thresholds.numel()):
            rounded = torch.where(x > self.thresholds[i], self.levels[i + 1], rounded)
        return rounded

    def extra_repr(self) -> str:
        return f"levels={self.levels.numel()}"


# Layers that are replaced or folded, and their forward hooks with them.
_LOST = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, SwitchableBatchNorm2d, ActivationQuantizer)


@torch.no_grad()
def freeze(
    network: SwitchableNetwork,
    size: int,
    activation: bool = True,
    variant: Variant | None = None,
) -> nn.Module:
    """A plain module, in evaluation mode, that computes what `network.at(size)` computes.

    Switchable BatchNorms become BatchNorm2d with that size's parameters (interpolated for a size
    that was not trained), quantized layers become Conv2d and Linear on the quantized weights,
    activation quantizers become ActivationLevels. All of it is float32, whatever the network is
    cast to. The network itself is not changed.

    Args:
        size: side of the images in pixels.
        activation: False leaves activation quantizers out: the same architecture in float32, the
            peer that a low-bit network is timed against. Integer networks have no other float form.
        variant: of a network with several widths or bits the one meant; None: the costliest.
    Raises:
        ModelError: an integer network with its activations, a layer whose weight a hook computes
            (weight_norm, pruning), or a forward hook that changes values of a layer.
    """
    network = at_variant(network, variant)
    check_no_weight_hooks(network.body, "it is frozen or exported")
    if network.spec.integer and activation:
        raise ModelError(
            f"{network.spec.arch}: is an integer network, which has no float form; export "
            "it with `form='int8'`, or use `pack`"
        )
    # Those on other modules are still there, and are exported.
    check_hooks_only_look(
        network,
        "what is frozen or exported",
        lambda m: m in (network, network.body) or isinstance(m, _LOST),
    )
    body = copied(network.body).float().eval().requires_grad_(False)
    bake_parametrizations(body)
    if network.spec.integer:
        without_rounding(body)
    rows = network.active.blend(size)
    plain = [(module, _plain(module, rows, activation)) for module in body.modules()]
    if plain[0][1] is not body:
        return plain[0][1]
    for module, new in plain:
        if new is not module:
            become(module, new)
    return body


def _plain(module: nn.Module, rows: Blend, activation: bool) -> nn.Module:
    """The plain layer that takes a layer's place; the module itself where nothing needs to."""
    if isinstance(module, SwitchableBatchNorm2d):
        return _plain_norm(module, rows)
    if isinstance(module, InputQuantizer):
        return ActivationLevels(module.in_force) if activation else nn.Identity()
    if isinstance(module, (QuantConv2d, QuantLinear)):
        plain = _plain_conv(module) if isinstance(module, QuantConv2d) else _plain_linear(module)
        if module.input_quantizer is None or not activation:
            return plain
        return nn.Sequential(_plain(module.input_quantizer, rows, activation), plain)
    return module


def _plain_norm(norm: SwitchableBatchNorm2d, rows: Blend) -> nn.Module:
    kind = nn.BatchNorm1d if isinstance(norm, SwitchableBatchNorm1d) else nn.BatchNorm2d
    plain = kind(norm.num_features, norm.eps, norm.momentum)
    names = ("weight", "bias", "running_mean", "running_var")
    for name, value in zip(names, norm.at_rows(rows), strict=True):
        getattr(plain, name).copy_(value)
    return plain.eval().requires_grad_(False).to(norm.weight.device)


def _plain_conv(conv: QuantConv2d) -> nn.Conv2d:
    # A Conv2d's own attributes are typed more loosely than its arguments.
    shape: dict[str, Any] = {
        name: getattr(conv, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    kind: type[nn.Conv2d] = nn.Conv2d
    if conv.pads is not None:
        kind, shape["pads"] = PaddedConv2d, conv.pads
    plain = kind(
        conv.in_channels,
        conv.out_channels,
        bias=conv.bias is not None,
        device=conv.weight.device,
        **shape,
    )
    plain.weight.copy_(conv.quantized_weight())
    if conv.bias is not None and plain.bias is not None:
        plain.bias.copy_(conv.bias)
    return plain.eval().requires_grad_(False)


def _plain_linear(linear: QuantLinear) -> nn.Linear:
    plain = nn.Linear(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        device=linear.weight.device,
    )
    plain.weight.copy_(linear.quantized_weight())
    if linear.bias is not None:
        plain.bias.copy_(linear.bias)
    return plain.eval().requires_grad_(False)


@dataclass(frozen=True)
class Folding:
    """What `fold_batchnorms` did.

    Attributes:
        module: computes what the given one computes, up to float32 rounding.
        folded, left: BatchNorms folded into the convolution before them, and those still there.
        note: why nothing could be folded, where torch.fx cannot trace the module.
    """

    module: nn.Module
    folded: int
    left: int
    note: str | None = None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (ActivationLevels, PaddedConv2d))
        return ours or super().is_leaf_module(m, module_qualified_name)


def fold_batchnorms(module: nn.Module) -> Folding:
    """Fold every BatchNorm2d that alone reads a Conv2d's output into that convolution.

    w <- w gamma / sqrt(var + eps), b <- (b - mean) gamma / sqrt(var + eps) + beta. A BatchNorm
    that follows an addition or a concatenation (pre-activation blocks, DenseNet) stays, and so
    does one whose convolution runs more than once. The given module is not changed.

    Args:
        module: plain torch layers in evaluation mode, as `freeze` gives.
    """
    try:
        folded_module = fx.GraphModule(module, _Tracer().trace(module))
    except Exception as error:  # whatever a user's forward does when it meets a proxy
        reason = str(error).split("\n")[0]
        note = f"BatchNorms not folded: torch.fx cannot trace {type(module).__name__} ({reason})"
        return Folding(module, 0, _count_norms(module), note)
    graph = folded_module.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(source.users) != 1:
            continue
        conv, norm = _module_of(folded_module, source), _module_of(folded_module, node)
        if not isinstance(conv, nn.Conv2d) or type(norm) is not nn.BatchNorm2d:
            continue
        if type(conv) not in (nn.Conv2d, PaddedConv2d):
            continue
        if calls[source.target] == 1 and calls[node.target] == 1:
            parent, _, child = str(source.target).rpartition(".")
            setattr(folded_module.get_submodule(parent), child, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    folded_module.delete_all_unused_submodules()
    folded_module.recompile()
    left = _count_norms(folded_module)
    return Folding(folded_module.eval(), _count_norms(module) - left, left)


def _module_of(root: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _count_norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
