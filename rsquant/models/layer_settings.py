"""What layers compute and their tensors do not say (strides, eps, bits), for checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from rsquant.errors import CheckpointError
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.quantizers import ActivationQuantizer, quantizers_of
from rsquant.text import brief, one_line


def layers_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What layers compute and their tensors do not say, by name, as JSON has it."""
    layers: dict[str, dict[str, Any]] = {}
    quantizers = dict.fromkeys(quantizers_of(model))
    for name, module in model.named_modules():
        if module in quantizers:
            layers[name] = module.settings()
        elif isinstance(module, (SwitchableBatchNorm2d, _BatchNorm)):
            layers[name] = {"eps": module.eps}
        elif isinstance(module, _ConvNd):
            padding = module.padding if isinstance(module.padding, str) else list(module.padding)
            layers[name] = {
                "stride": list(module.stride),
                "padding": padding,
                "dilation": list(module.dilation),
                "groups": module.groups,
                "padding_mode": module.padding_mode,
                "pads": _pads(module),
            }
    return layers


def _pads(conv: _ConvNd) -> Any:
    pads = getattr(conv, "pads", None)
    return list(pads) if isinstance(pads, tuple) else pads


def check_layers(
    path: Path, layers: dict[str, dict[str, Any]], model: nn.Module
) -> dict[ActivationQuantizer, bool]:
    """Raise CheckpointError naming a layer that computes something else than the checkpoint's.

    Which inputs are signed was found from random images, and is taken from the checkpoint: that
    is returned.
    """
    own = layers_of(model)
    modules = dict(model.named_modules())
    for name in sorted(own.keys() ^ layers.keys()):
        owner, _, part = name.rpartition(".")
        if part in ("weight_quantizer", "input_quantizer") and owner in modules:
            quantized, other = ("checkpoint", "network given")
            if name in own:
                quantized, other = other, quantized
            what = part.removesuffix("_quantizer")
            raise CheckpointError(
                f"{path}: {owner.removeprefix('body.')} has a quantized {what} in the {quantized} "
                f"and not in the {other}; make the network with the checkpoint's keep and bits"
            )
    for name in sorted(own.keys() ^ layers.keys()):
        which = "does not describe" if name in own else "describes"
        raise CheckpointError(
            f"{path}: {which} the layer {name.removeprefix('body.'):.100}, which the network "
            f"{'has' if name in own else 'lacks'}; build the network as it was for the checkpoint"
        )
    signed: dict[ActivationQuantizer, bool] = {}
    for name, entry in layers.items():
        shown = f"{name.removeprefix('body.'):.100}"
        # A setting that an older version did not know is None where the layer is as it was then.
        needed = {key for key, mine in own[name].items() if mine is not None}
        for key in sorted((needed - entry.keys()) | (entry.keys() - own[name].keys())):
            raise CheckpointError(
                f"{path}: its description of the layer {shown} is damaged: '{key:.40}' is "
                f"{'missing' if key in own[name] else 'unknown'}"
            )
        for key, value in entry.items():
            mine = own[name][key]
            quantizer = modules[name]
            if key == "signed" and isinstance(quantizer, ActivationQuantizer):
                if type(value) is not bool:
                    raise CheckpointError(
                        f"{path}: its description of the layer {shown} is damaged: 'signed' must "
                        f"be true or false, got {brief(value)}"
                    )
                signed[quantizer] = value
            # JSON's true is not 1, and 1.0 is not 1.
            elif mine != value or type(mine) is not type(value):
                given = value if isinstance(value, list) and len(value) < 9 else brief(value)
                raise CheckpointError(
                    f"{path}: {shown} has {key} {one_line(given, 100)}, in the network given "
                    f"{mine}; build the network as it was for the checkpoint"
                )
    return signed
