"""Make any CNN built from Conv2d, BatchNorm2d and Linear low-bit and resolution switchable."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from rsquant import tasks
from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.bits import check_bits_settings, nest_bits
from rsquant.nn.conversion import NAMED, Conversion
from rsquant.nn.copying import copied
from rsquant.nn.float_layers import (
    QUANTIZABLE,
    bypassed_layers,
    idle_in_probe,
    is_below,
    kept_layers,
    layers_and_why_float,
    named_layers,
    unquantizable,
)
from rsquant.nn.integer.build import integer_spec, make_integer
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.precision import (
    FLOAT,
    check_bits,
    parse_layer_bits,
    parse_layer_quantizer,
)
from rsquant.nn.probe import Probe, survey
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.reparametrized import check_no_weight_hooks
from rsquant.nn.replacement import replace_layers
from rsquant.nn.spec_effects import check_fields
from rsquant.nn.switchable import CUSTOM, ModelSpec, SwitchableNetwork
from rsquant.nn.verify import idle_layers
from rsquant.quantizers.registry import DEFAULT, kind
from rsquant.quantizers.weight_norm import check_norm
from rsquant.settings import checked_bits, of_all, of_sizes

_log = logging.getLogger(__name__)


_IDLE = "does not run in evaluation, as far as random images show"


def convert(
    network: nn.Module,
    wbits: int = 2,
    abits: int = 2,
    resolutions: Sequence[int] = (224, 192, 160, 128, 96),
    keep: Collection[str] | None = None,
    grid: str = "none",
    quantizer: str = DEFAULT,
    task: str = tasks.DEFAULT,
    layer_bits: Mapping[str, Any] | None = None,
    layer_quantizer: Mapping[str, str] | None = None,
    integer: bool = False,
    weight_norm: str = "none",
    bits: Sequence[Any] = (),
) -> SwitchableNetwork:
    """A low-bit, resolution-switchable copy of a CNN; the network itself is not changed.

    Every Conv2d and Linear becomes its quantized form (levels start from the weights; the input of
    each layer is quantized if `abits` is not 32), every BatchNorm2d and BatchNorm1d gets one copy
    of itself per resolution. A BatchNorm2d of a class of its own that runs an activation, too
    (timm's BatchNormAct2d), becomes a Sequential of both; a Conv2d that only pads (timm's
    Conv2dSame) a PaddedConv2d, low-bit as the others. torchvision, timm and your own networks work
    alike. The result's `conversion` reports what was quantized, kept and left; a log warning names
    what was left.

    Args:
        network: takes (N, 3, H, W) float32, returns what the task says, logits (N, classes).
        wbits, abits: 1 to 4, or 32 to leave that side in float32.
        resolutions: training sizes in pixels; the network must run at each.
        keep: names of layers left in float32, and of modules whose layers all are; None keeps
            every layer that reads the image and every head: layers with no other Conv2d or Linear
            between them and the logits.
        grid: none, fine or coarse: levels on small integers, see `quantizers.grid`.
        quantizer: lq, or another registered name, see `quantizers.registry`.
        task: classification, or another registered name, see `tasks.registry`.
        layer_bits: other bits for layers whose names match a shell-style pattern, the last that
            matches wins: {"layer4.*": (4, 4)}; None in place of a number leaves that side.
        layer_quantizer: other quantizers likewise: {"layer4.*": "lsq"}.
        integer: an integer network: what a device rounds is rounded in training, and evaluation
            computes its integers, see docs/integer.md. On the coarse grid.
        weight_norm: none, std or mean-abs: low-bit weights are normalised per output channel before
            they are quantized, see `quantizers.weight_norm`.
        bits: of several settings, as of `rsquant.create`.
    Raises:
        ModelError: no BatchNorm2d, or the network does not run at these resolutions; it has layers
            without an integer form.
        ConfigError: a bit width outside 1 to 4 and 32, a kept name that covers no layer, or a
            pattern that matches none, or only layers that stay in float32; a setting that changes
            nothing.
    """
    pairs = checked_bits(bits)
    if pairs:
        wbits, abits = pairs[0]
    spec = ModelSpec(
        CUSTOM,
        wbits,
        abits,
        tuple(setting.size for setting in of_sizes(resolutions)),
        0,
        stem="own",
        grid=grid,
        block="own",
        quantizer=quantizer,
        task=task,
        layer_bits=parse_layer_bits(layer_bits),
        layer_quantizer=parse_layer_quantizer(layer_quantizer),
        integer=integer,
        weight_norm=weight_norm,
        bits=pairs,
    )
    check_fields(spec)
    converted = convert_quietly(network, spec, keep)
    report = converted.conversion
    if report is not None and report.left:
        _log.warning("%s: %s", type(network).__name__, report.summary())
    return converted


def convert_quietly(
    network: nn.Module, spec: ModelSpec, keep: Collection[str] | None = None
) -> SwitchableNetwork:
    """`convert` for a caller that shows the report itself.

    Args:
        spec: what is wanted; its number of classes is the network's then.
    """
    check_bits(spec.wbits, spec.abits)
    kind(spec.quantizer)
    check_norm(spec.weight_norm)
    check_bits_settings(spec)
    if spec.integer:
        spec = integer_spec(spec)
    active = ActiveSetting(of_all(spec.resolutions, spec.bits, spec.widths))
    who = type(network).__name__
    if getattr(network, "aux_logits", False):
        raise ModelError(f"{who}: has auxiliary outputs in training; make it with aux_logits=False")
    check_no_weight_hooks(network, "rsquant.convert")
    body = copied(network)
    # The copy is probed: running may change a network (lazy layers, caches).
    layers = survey(body, active.resolutions, tasks.by_name(spec.task))
    left = unquantizable(body, layers)
    left |= dict.fromkeys(idle_in_probe(body, layers, left), _IDLE)
    kept = (
        kept_layers(layers)
        if keep is None
        else dict.fromkeys(named_layers(body, keep, left), NAMED)
    )
    precisions = spec.precisions
    precisions.check(layers_and_why_float(body, kept, left))
    bypassed = bypassed_layers(body, left)
    replace_layers(
        body, active, precisions.of, kept, layers.signed, spec.grid, bypassed, layers.vectors
    )
    spec = replace(spec, resolutions=active.resolutions, num_classes=layers.num_classes)
    converted = SwitchableNetwork(body, active, spec, layers.stride)
    converted.training = network.training
    idle = idle_layers(converted, body, (layers.size, *active.resolutions))
    _check_idle(body, idle, layers)
    left |= {name: _IDLE for name in idle if not is_below(name, left)}
    converted.conversion = _report(body, spec, kept, left)
    if spec.bits:
        nest_bits(converted)
    if spec.integer:
        make_integer(converted)
    return converted


def _check_idle(body: nn.Module, idle: Collection[str], layers: Probe) -> None:
    """Raise ModelError for layers that ran before they were converted, or if no BatchNorm runs."""
    who = type(body).__name__
    modules = dict(body.named_modules())
    lost = [name for name in idle if name in layers.order]
    if lost:
        raise ModelError(
            f"{who}: {', '.join(lost)} ran before the conversion and not after it: its "
            "forward reaches them in a way that bypasses the converted layers; call them as "
            "self.NAME(x), or name them in keep"
        )
    norms = [name for name, m in modules.items() if isinstance(m, SwitchableBatchNorm2d)]
    if set(norms) <= set(idle):
        raise ModelError(
            f"{who}: none of its BatchNorm2d layers runs ({', '.join(norms[:4])}), so nothing can "
            "be switched; the forward may use layers of another network, held in a closure"
        )


def _report(
    body: nn.Module, spec: ModelSpec, kept: dict[str, str], left: dict[str, str]
) -> Conversion:
    layers = {n: m for n, m in body.named_modules() if isinstance(m, QUANTIZABLE)}
    quantized = tuple(
        name
        for name, m in layers.items()
        if isinstance(m, QUANTIZED_LAYERS) and (m.weight_quantizer or m.input_quantizer)
    )
    wbits, abits = spec.wbits, spec.abits
    if wbits == abits == FLOAT and not spec.layer_bits:
        return Conversion((), dict.fromkeys(layers, "32 bits"), {}, wbits, abits)
    own = {name: spec.precisions.of(name) for name in layers}
    asked = {name: "32 bits" for name, precision in own.items() if precision.is_float}
    kept = {name: why for name, why in asked.items() if name not in left} | kept
    others = {name: str(own[name]) for name in quantized if own[name] != spec.precisions.default}
    # Only layers have something to keep; a name in `keep` may also be another module's.
    kept = {name: why for name, why in kept.items() if name in layers or name in left}
    left = {name: why for name, why in left.items() if name not in kept}
    return Conversion(quantized, kept, left, wbits, abits, others)
