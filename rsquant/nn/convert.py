"""Make any CNN built from Conv2d, BatchNorm2d and Linear low-bit and resolution switchable."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from rsquant import tasks
from rsquant.errors import ConfigError, ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.become import become
from rsquant.nn.conversion import HEAD, NAMED, READS_IMAGE, Conversion
from rsquant.nn.copying import copied
from rsquant.nn.integer.build import integer_spec, make_integer
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.norm_act import BATCHNORMS, switchable_norm
from rsquant.nn.own_linear import linear_form
from rsquant.nn.padded import PaddedConv2d, padded_form
from rsquant.nn.precision import (
    FLOAT,
    Precision,
    check_bits,
    parse_layer_bits,
    parse_layer_quantizer,
)
from rsquant.nn.probe import Probe, survey
from rsquant.nn.quantized import QUANTIZED_LAYERS, QuantConv2d, QuantLinear, crashes_backward
from rsquant.nn.reparametrized import check_no_weight_hooks, check_own
from rsquant.nn.sizes import check_smallest as check_smallest
from rsquant.nn.switchable import CUSTOM, ModelSpec, SwitchableNetwork
from rsquant.nn.verify import idle_layers
from rsquant.quantizers.registry import DEFAULT, kind
from rsquant.settings import of_sizes

_log = logging.getLogger(__name__)

_LAYERS = (nn.Conv2d, nn.Linear)
# Layers with weights that have no low-bit form. The last two compute with their parts' weights.
_FLOAT_ONLY = (
    _ConvNd,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
)


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
    Raises:
        ModelError: no BatchNorm2d, or the network does not run at these resolutions; it has layers
            without an integer form.
        ConfigError: a bit width outside 1 to 4 and 32, a kept name that covers no layer, or a
            pattern that matches none, or only layers that stay in float32.
    """
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
    )
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
    if spec.integer:
        spec = integer_spec(spec)
    active = ActiveSetting(of_sizes(spec.resolutions))
    who = type(network).__name__
    if getattr(network, "aux_logits", False):
        raise ModelError(f"{who}: has auxiliary outputs in training; make it with aux_logits=False")
    check_no_weight_hooks(network, "rsquant.convert")
    body = copied(network)
    # The copy is probed: running may change a network (lazy layers, caches).
    layers = survey(body, active.resolutions, tasks.by_name(spec.task))
    left = unquantizable(body, layers)
    left |= dict.fromkeys(_idle(body, layers, left), _IDLE)
    kept = _kept(layers) if keep is None else dict.fromkeys(_named(body, keep, left), NAMED)
    precisions = spec.precisions
    precisions.check(_layers_and_why_float(body, kept, left))
    bypassed = _bypassed(body, left)
    replace_layers(
        body, active, precisions.of, kept, layers.signed, spec.grid, bypassed, layers.vectors
    )
    spec = replace(spec, resolutions=active.resolutions, num_classes=layers.num_classes)
    converted = SwitchableNetwork(body, active, spec, layers.stride)
    converted.training = network.training
    idle = idle_layers(converted, body, (layers.size, *active.resolutions))
    _check_idle(body, idle, layers)
    left |= {name: _IDLE for name in idle if not _is_below(name, left)}
    converted.conversion = _report(body, spec, kept, left)
    if spec.integer:
        make_integer(converted)
    return converted


def _kept(layers: Probe) -> dict[str, str]:
    """Layers that stay in float32 unless a user says which, and why, in the order they run."""
    why = {name: READS_IMAGE for name in layers.order if name in layers.readers}
    for name in layers.order:
        if name in layers.heads:
            why[name] = f"{READS_IMAGE}, {HEAD}" if name in why else HEAD
    return why


def _named(network: nn.Module, keep: Collection[str], left: Collection[str]) -> list[str]:
    """The layers that names in `keep` cover: themselves, and everything below them.

    Raises:
        ConfigError: a name that covers nothing with weights, naming the nearest that does.
    """
    # A layer under two names is known by its first.
    first = {module: name for name, module in reversed(list(network.named_modules()))}
    layers = {
        name: first[module]
        for name, module in network.named_modules(remove_duplicate=False)
        if first[module] in left
        or (isinstance(module, _LAYERS) and not _is_below(first[module], left))
    }
    covered: dict[str, None] = {}
    for name in [keep] if isinstance(keep, str) else keep:
        below = [own for other, own in layers.items() if _is_below(other, [name])]
        if not below:
            parts = (layer.split(".") for layer in layers)
            names = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
            near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)
            exists = name in dict(network.named_modules(remove_duplicate=False))
            what = (
                f"'{name}' has no Conv2d or Linear to keep"
                if exists
                else f"{type(network).__name__} has no layer named '{name}'"
            )
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise ConfigError(f"keep: {what}{hint}")
        covered |= dict.fromkeys(below)
    return list(covered)


def unquantizable(network: nn.Module, layers: Probe) -> dict[str, str]:
    """Names of what has weights and no low-bit form, and why it stays in float32.

    Layers of other kinds, parameters that a forward multiplies with itself, and layers whose
    weights it takes instead of calling them.
    """
    who = type(network).__name__
    left: dict[str, str] = {}
    for name, module in network.named_modules():
        if _is_below(name, left):
            continue
        if isinstance(module, _FLOAT_ONLY) and not isinstance(module, nn.Conv2d):
            left[name] = f"{type(module).__name__} has no low-bit form"
    known = dict(left)
    for use in layers.uses:
        where = f"{use.operation} in {use.module or who}"
        for parameter in sorted(use.parameters):
            owner = parameter.rpartition(".")[0]
            if _is_below(owner, known):
                continue
            if not isinstance(network.get_submodule(owner), _LAYERS):
                left[parameter] = f"parameter used by {where}"
            elif owner in layers.order:
                left[parameter] = f"also used by {where}, without calling the layer"
            else:
                left[owner] = f"weight used by {where}, without calling the layer"
        if not use.parameters and not _is_below(use.module, known):
            left[use.module or who] = f"{use.operation} with a weight that is not a parameter of it"
    return left


def _idle(network: nn.Module, layers: Probe, left: Collection[str]) -> list[str]:
    """Conv2d and Linear layers that no run has shown."""
    names = [name for name, module in network.named_modules() if isinstance(module, _LAYERS)]
    return [name for name in names if name not in layers.order and not _is_below(name, left)]


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


def _is_below(name: str, modules: Collection[str]) -> bool:
    """Whether a name is one of these modules', or of something inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in modules)


def _bypassed(network: nn.Module, left: Collection[str]) -> list[str]:
    """Conv2d and Linear layers that must not be replaced: their forward is not what runs."""
    whole = [name for name in left if _is_bypassing(network, name)]
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _LAYERS) and _is_below(name, whole)
    ]


def _is_bypassing(network: nn.Module, name: str) -> bool:
    modules = dict(network.named_modules())
    return isinstance(modules.get(name), (*_LAYERS, *_FLOAT_ONLY))


def _layers_and_why_float(
    body: nn.Module, kept: Mapping[str, str], left: Mapping[str, str]
) -> dict[str, str | None]:
    """Every layer with weights, and why it stays in float32; None for one that does not."""
    why = {**left, **kept}
    return {
        name: next((why[one] for one in why if _is_below(name, [one])), None)
        for name, module in body.named_modules()
        if isinstance(module, (*_LAYERS, *_FLOAT_ONLY)) or name in why
    }


def _report(
    body: nn.Module, spec: ModelSpec, kept: dict[str, str], left: dict[str, str]
) -> Conversion:
    layers = {n: m for n, m in body.named_modules() if isinstance(m, _LAYERS)}
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


def replace_layers(
    body: nn.Module,
    active: ActiveSetting,
    precision_of: Callable[[str], Precision],
    keep: Collection[str],
    signed: Collection[str] = (),
    grid: str = "none",
    bypassed: Collection[str] = (),
    vectors: Collection[str] = (),
) -> None:
    """Replace the layers of a network in place; see `convert`.

    Args:
        precision_of: bits and quantizer of a layer, by its name.
        keep: names of Conv2d and Linear layers that stay.
        signed: names of layers whose input has negative values.
        bypassed: names of layers that stay because their forward is not what runs.
        vectors: names of SyncBatchNorms that read (N, C) or (N, C, L).
    """
    modules = dict(body.named_modules(remove_duplicate=False))
    missing = [name for name in keep if name not in modules]
    if missing:
        raise ConfigError(f"keep: {type(body).__name__} has no layer named '{missing[0]}'")
    if not any(isinstance(m, BATCHNORMS) for m in modules.values()):
        raise ModelError(
            f"{type(body).__name__}: has no BatchNorm2d; resolutions are switched by BatchNorms, "
            "so use a variant with them (vgg16_bn instead of vgg16)"
        )
    kept = {modules[name] for name in (*keep, *bypassed)}
    # Of a class of its own: not even its padding is ours to compute.
    own = {modules[name] for name in bypassed if type(modules[name]) is not nn.Conv2d}
    seen: set[nn.Module] = set()
    tables: dict[Tensor, Tensor] = {}
    for name, module in modules.items():
        # A layer held under two names stays one layer.
        if module not in seen and module not in own:
            seen.add(module)
            precision = Precision(FLOAT, FLOAT) if module in kept else precision_of(name)
            if isinstance(module, BATCHNORMS):
                new: nn.Module | None = switchable_norm(name, module, active, name in vectors)
            else:
                new = _replacement(name, module, active, precision, name in signed, grid)
            norm = new[0] if isinstance(new, nn.Sequential) else new
            if isinstance(norm, SwitchableBatchNorm2d):
                _tie(module, norm, tables)
            if new is not None:
                # Hooks and a user's own attributes stay.
                hooks = {key: value for key, value in module.__dict__.items() if "_hooks" in key}
                new.__dict__ = {**module.__dict__, **new.__dict__, **hooks}
                become(module, new)


def _tie(norm: nn.Module, new: SwitchableBatchNorm2d, tables: dict[Tensor, Tensor]) -> None:
    """Let BatchNorms that shared a tensor share the table made of it.

    Args:
        tables: by the tensors that they were made of; added to.
    """
    for name, table in [*new.named_parameters(), *new.named_buffers()]:
        own = getattr(norm, name)
        if own is not None:
            setattr(new, name, tables.setdefault(own, table))


def _replacement(
    name: str,
    module: nn.Module,
    active: ActiveSetting,
    precision: Precision,
    signed: bool,
    grid: str,
) -> nn.Module | None:
    """The layer that takes a module's place, or None if it stays."""
    new: nn.Module | None = None
    quantize = not precision.is_float
    wbits, abits, quantizer = precision.wbits, precision.abits, precision.quantizer
    if quantize and isinstance(module, _LAYERS):
        _check_plain(name, module)
    elif isinstance(module, _NormBase):
        check_own(name, module, "rsquant.convert")
    if isinstance(module, _NormBase) and module.running_mean is not None:
        raise ModelError(
            f"{name}: is a {type(module).__name__}, whose statistics all resolutions would share; "
            "use BatchNorm2d, or track_running_stats=False"
        )
    if isinstance(module, nn.Conv2d) and (conv := _plain_conv(module)) is not None:
        if quantize or crashes_backward(conv):
            new = QuantConv2d.from_float(conv, wbits, abits, signed, grid, quantizer)
        elif conv is not module:
            new = conv
    elif isinstance(module, nn.Linear) and (linear := _plain_linear(module)) is not None:
        if quantize:
            new = QuantLinear.from_float(linear, wbits, abits, signed, grid, quantizer)
        elif linear is not module:
            new = linear
    elif quantize and isinstance(module, _LAYERS):
        raise ModelError(
            f"{name}: is a {type(module).__name__}, whose own computation would be lost; use "
            "Conv2d (or one that only pads with zeros) or Linear, or name it in keep to leave it "
            "in float32"
        )
    return None if new is None else new.train(module.training)


def _plain_conv(conv: nn.Conv2d) -> nn.Conv2d | None:
    """The convolution itself, or what a class of its own is but for its padding; else None."""
    return conv if type(conv) in (nn.Conv2d, PaddedConv2d) else padded_form(conv)


def _plain_linear(linear: nn.Linear) -> nn.Linear | None:
    """The layer itself, or what a class of its own that adds nothing is; else None."""
    return linear if type(linear) is nn.Linear else linear_form(linear)


def _check_plain(name: str, layer: nn.Module) -> None:
    """Raise ModelError for a layer whose weight is computed from other parameters."""
    check_own(name, layer, "rsquant.convert, or name it in keep to leave it in float32")
    parameters = dict(layer.named_parameters(recurse=False))
    other = sorted(parameters.keys() - {"weight", "bias"})
    if other or "weight" not in parameters:
        what = other[0] if other else "something else"
        raise ModelError(
            f"{name}: its weight is computed from {what}, which would be lost; make the "
            "result its weight first, or name the layer in keep to leave it in float32"
        )
