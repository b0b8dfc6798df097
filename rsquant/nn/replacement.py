"""Conv2d, Linear and BatchNorms of a network into their low-bit, switchable forms, in place."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rsquant.errors import ConfigError, ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.become import become
from rsquant.nn.float_layers import QUANTIZABLE
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.norm_act import BATCHNORMS, switchable_norm
from rsquant.nn.own_linear import linear_form
from rsquant.nn.padded import PaddedConv2d, padded_form
from rsquant.nn.precision import FLOAT, Precision
from rsquant.nn.quantized import QuantConv2d, QuantLinear, crashes_backward
from rsquant.nn.reparametrized import check_own


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
    wbits, abits = precision.wbits, precision.abits
    quantizer, norm = precision.quantizer, precision.weight_norm
    if quantize and isinstance(module, QUANTIZABLE):
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
            new = QuantConv2d.from_float(conv, wbits, abits, signed, grid, quantizer, norm)
        elif conv is not module:
            new = conv
    elif isinstance(module, nn.Linear) and (linear := _plain_linear(module)) is not None:
        if quantize:
            new = QuantLinear.from_float(linear, wbits, abits, signed, grid, quantizer, norm)
        elif linear is not module:
            new = linear
    elif quantize and isinstance(module, QUANTIZABLE):
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
