"""Whether a network can be packed, as far as its bits and quantizers say.

What its layers compute is found out by packing it (`trace`, `lower`).
"""

from __future__ import annotations

from torch import nn

from rsquant.nn.precision import FLOAT
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.quantizers import Quantizer, quantizers_of


def obstacle(network: SwitchableNetwork) -> str:
    """Why a network cannot be packed, a clause that says what to do; "" where nothing is known."""
    if found := float_side(network.spec):
        return f"{network.spec.arch}: {found}"
    layers = [n for n, m in network.body.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for name in layers[1:-1]:
        if network.spec.precisions.of(name).wbits == FLOAT:
            return float_weights(name)
    return next(filter(None, map(formless, quantizers_of(network))), "")


def float_side(spec: ModelSpec) -> str:
    """Of weights or activations of which none have low bits."""
    sides = (("weights", spec.low_bit_weights), ("activations", spec.low_bit_activations))
    for what, low in sides:
        if not low:
            return (
                f"its {what} are float32 ({what[0]}bits 32), and a packed network computes with "
                f"low-bit ones; train with `{what[0]}bits` 1 to 4"
            )
    return ""


def float_weights(name: str) -> str:
    """Of a layer that is neither the first nor the last."""
    return (
        f"{name}: has float32 weights in the middle of the network; leave only the first and the "
        "last layer out of the conversion"
    )


def formless(quantizer: Quantizer) -> str:
    """Of a quantizer whose levels are no integers times a scale."""
    if quantizer.has_integer_form():
        return ""
    name = quantizer.kind or type(quantizer).__name__
    return (
        f"the quantizer '{name}' has no integer form, which packed networks compute with; give "
        f"{type(quantizer).__name__} a method on_grid, or export to ONNX"
    )
