"""Networks at several widths: a narrower one is the first channels of every layer.

A layer at a width computes with weight[:o, :i], o and i the channels of a network that is made at
that width; a depthwise convolution with its first groups, the classifier with all its classes.
Weights are quantized as a whole and then cut, so an LQ basis is moved by all the weights of its
layer, and those of a narrower layer are on the same levels. BatchNorms have rows of their own for
each width, stored at full length, of which the first channels are used.

Source: Yu et al. (arXiv 1812.08928), section 3: slimmable networks with switchable BatchNorms.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsquant.errors import ConfigError
from rsquant.nn.become import become
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.padded import pads_of
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QUANTIZED_LAYERS, QuantConv2d, QuantLinear
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.quantizers import WeightQuantizer

# Of a layer's weights (O, I / groups, ...) the first so many that a width uses.
Part = tuple[int, int]


@dataclass(frozen=True)
class Narrower:
    """A network of the same kind, made at a width.

    Attributes:
        body: in float32, on any device.
        fields: of the ModelSpec that makes it, those that differ.
    """

    body: nn.Module
    fields: Mapping[str, Any]


def check_width_settings(spec: ModelSpec) -> None:
    """Raise ConfigError for what cannot be combined with several widths."""
    if spec.widths and spec.integer:
        raise ConfigError("widths: several cannot be combined with integer; leave one out")


def make_slimmable(network: SwitchableNetwork, narrower: Mapping[float, Narrower]) -> None:
    """Let a network compute at narrower widths, in place.

    Args:
        network: its `settings` have the widths already.
        narrower: by width, of all but 1.
    Raises:
        ConfigError: naming the layer that is no part of the whole network's, or whose quantizer
            rounds a part of its weights otherwise.
    """
    parts: dict[str, dict[float, nn.Module]] = {}
    for width, body in [(1.0, network.body), *((w, one.body) for w, one in narrower.items())]:
        _check_alike(network.body, body, width)
        for name, module in _layers_of(body).items():
            parts.setdefault(name, {})[width] = module
    widths = (1.0, *narrower)
    for name, modules in parts.items():
        if missing := [width for width in widths if width not in modules]:
            raise ConfigError(
                f"widths: {name} cannot be slimmed: there is none at width {missing[0]:g}"
            )
        for width in narrower:
            _check_part(name, modules[1.0], modules[width], width)
    channels = {n: {w: _channels(m) for w, m in of.items()} for n, of in parts.items()}
    _check_different(widths, list(channels.values()), network.spec.arch)
    checked = set()
    for name, module in _layers_of(network.body).items():
        if isinstance(module, SwitchableBatchNorm2d):
            module.channels = {width: count for width, (count, _) in channels[name].items()}
            continue
        layer = _with_parts(module, channels[name])
        if (quantizer := layer.weight_quantizer) is not None:
            # Layers of one shape and kind of quantizer are cut alike.
            kind = quantizer.kind, quantizer.weight_norm, quantizer.bits, module.weight.shape
            if kind not in checked:
                _check_quantizer(name, layer, min(widths))
            checked.add(kind)
    network.forms = {1.0: {}, **{width: dict(one.fields) for width, one in narrower.items()}}


def _layers_of(body: nn.Module) -> dict[str, nn.Module]:
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, SwitchableBatchNorm2d)
    return {name: module for name, module in body.named_modules() if isinstance(module, kinds)}


def _channels(layer: nn.Module) -> Part:
    """The first two numbers of its weights' shape; of a BatchNorm its channels, twice."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return layer.weight.shape[0], layer.weight.shape[1]
    assert isinstance(layer, (nn.BatchNorm2d, SwitchableBatchNorm2d))
    return layer.num_features, layer.num_features


def _with_parts(layer: nn.Module, parts: dict[float, Part]) -> QuantConv2d | QuantLinear:
    """The layer, which knows its part at each width; one in float32 becomes of the same class."""
    if not isinstance(layer, QUANTIZED_LAYERS):
        kind = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
        new = kind.from_float(layer, wbits=FLOAT).train(layer.training)  # type: ignore[arg-type]
        become(layer, new)
    assert isinstance(layer, QUANTIZED_LAYERS)
    layer.parts = parts
    return layer


def _check_part(name: str, whole: nn.Module, part: nn.Module, width: float) -> None:
    """Raise ConfigError if a layer is not the first channels of another."""
    ours, theirs = _channels(whole), _channels(part)
    problem = ""
    if theirs[0] > ours[0] or theirs[1] > ours[1]:
        problem = f"{theirs} channels at width {width:g} are more than {ours}"
    elif isinstance(whole, nn.Conv2d) and isinstance(part, nn.Conv2d):
        depthwise = (whole.groups, part.groups) == (whole.in_channels, part.in_channels)
        if not (depthwise or whole.groups == part.groups == 1):
            problem = f"it has {whole.groups} groups; one group, or one for each channel, can be"
        elif whole.padding_mode != "zeros" or pads_of(whole) is not None:
            problem = "it pads otherwise than Conv2d with zeros"
    if problem:
        raise ConfigError(f"widths: {name} cannot be slimmed: {problem}")


def _check_alike(whole: nn.Module, part: nn.Module, width: float) -> None:
    """Raise ConfigError for blocks that do another thing at a width: one that adds its input."""
    parts = dict(part.named_modules())
    for name, module in whole.named_modules():
        other = vars(parts[name]) if name in parts else {}
        for what, value in vars(module).items():
            if isinstance(value, bool) and what != "training" and other.get(what, value) != value:
                raise ConfigError(
                    f"widths: {name} cannot be slimmed: its {what} is {value} at width 1 and "
                    f"{other[what]} at {width:g}"
                )


def _check_different(
    widths: Sequence[float], channels: Sequence[Mapping[float, Part]], arch: str
) -> None:
    known: dict[tuple[Part, ...], float] = {}
    for width in widths:
        other = known.setdefault(tuple(of[width] for of in channels), width)
        if other != width:
            raise ConfigError(
                f"widths: {other:g} and {width:g} are the same channels in this {arch}; leave one "
                "out, or make the network wider"
            )


@torch.no_grad()
def _check_quantizer(name: str, layer: QuantConv2d | QuantLinear, width: float) -> None:
    """Raise ConfigError where levels of some channels depend on more than those channels."""
    quantizer, parts = layer.weight_quantizer, layer.parts
    assert quantizer is not None and parts is not None
    own = copy.deepcopy(quantizer).eval()
    outputs, inputs = parts[width]
    wanted = own(layer.weight)[:outputs, :inputs]
    if not torch.equal(first_channels(own, outputs)(layer.weight[:outputs, :inputs]), wanted):
        norm = "" if own.weight_norm == "none" else f" with weight_norm '{own.weight_norm}'"
        raise ConfigError(
            f"widths: {name} cannot be slimmed: its quantizer '{own.kind}'{norm} rounds a part of "
            "its weights otherwise than all; use quantizer 'lq' without weight_norm"
        )


def first_channels(quantizer: WeightQuantizer, count: int) -> WeightQuantizer:
    """A copy for the first output channels: what it stores for each channel is cut."""
    new = copy.deepcopy(quantizer)
    channels = len(quantizer.levels())
    for owner in new.modules():
        for name, tensor in [*owner.named_parameters(recurse=False), *_stored(owner)]:
            if tensor.ndim and len(tensor) == channels:
                cut = tensor.detach()[:count].clone()
                if isinstance(tensor, nn.Parameter):
                    cut = nn.Parameter(cut, tensor.requires_grad)
                setattr(owner, name, cut)
        if getattr(owner, "out_channels", None) == channels:
            owner.out_channels = count  # type: ignore[assignment]
    return new


def _stored(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    kept = module._non_persistent_buffers_set
    return [(n, t) for n, t in module.named_buffers(recurse=False) if n not in kept]


@torch.no_grad()
def cut_to_width(network: SwitchableNetwork, width: float) -> None:
    """Make a network plain layers of one of its widths, in place; its BatchNorms keep their rows.

    Args:
        network: with several widths; a copy of the user's.
    """
    for module in network.body.modules():
        if isinstance(module, SwitchableBatchNorm2d) and module.channels is not None:
            module.keep_channels(module.channels[width])
        elif isinstance(module, QUANTIZED_LAYERS) and module.parts is not None:
            _cut(module, module.parts[width])


def _cut(layer: QuantConv2d | QuantLinear, part: Part) -> None:
    outputs, inputs = part
    old, bias = layer.weight, layer.bias
    layer.weight = nn.Parameter(old[:outputs, :inputs].clone(), old.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias[:outputs].clone(), bias.requires_grad)
    if layer.weight_quantizer is not None:
        layer.weight_quantizer = first_channels(layer.weight_quantizer, outputs)
    if isinstance(layer, QuantConv2d):
        layer.groups = 1 if layer.groups == 1 else outputs // (len(old) // layer.groups)
        layer.in_channels, layer.out_channels = inputs * layer.groups, outputs
    else:
        layer.in_features, layer.out_features = inputs, outputs
    layer.parts = None
