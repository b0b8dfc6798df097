"""LQ quantizers for layers of Brevitas.

    QuantConv2d(64, 64, 3, weight_quant=LQWeightQuant, weight_bit_width=2,
                input_quant=LQActQuant, input_bit_width=2)

They give plain tensors. Brevitas's quantized tensors say value = scale * (integer - zero_point),
which the levels of a learned basis are not, so `return_quant_tensor` must stay False.
"""

from __future__ import annotations

from typing import Any

from brevitas.inject import ExtendedInjector
from torch import Tensor, nn

from rsquant.errors import ConfigError
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer


class _Proxy(nn.Module):
    """What Brevitas asks of the quantizer of a layer (`QuantProxyProtocol`)."""

    is_quant_enabled = True
    is_narrow_range = False
    rounding_mode = None
    requires_quant_input = False
    is_signed: bool

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # A plain list: a module's own layer is no part of it.
        self.tracked: list[nn.Module] = [layer]

    def add_tracked_module(self, module: nn.Module) -> None:
        """Called for each layer that shares the quantizer."""
        self.tracked.append(module)


class LQWeightProxy(_Proxy):
    """Quantizes a layer's weights as LQWeightQuantizer does, each output channel by its basis."""

    is_signed = True

    def __init__(self, layer: nn.Module, injector: Any) -> None:
        super().__init__(layer)
        if layer.output_channel_dim != 0:
            raise ConfigError(
                f"LQWeightQuant: {type(layer).__name__} has its output channels in dimension "
                f"{layer.output_channel_dim} of its weight, which must be 0; use QuantConv2d or "
                "QuantLinear"
            )
        weight = layer.weight
        assert isinstance(weight, Tensor)
        outputs = len(weight)
        # It starts from the layer's weights, whatever the fan-out.
        self.quantizer = LQWeightQuantizer(outputs, injector.bit_width, outputs, injector.grid)
        self.init_tensor_quant()

    def init_tensor_quant(self) -> None:
        """Start from the weights there are: Brevitas calls this when a layer gets others."""
        weight = self.tracked[0].weight
        assert isinstance(weight, Tensor)
        self.quantizer.to(weight.device).start_from(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """Weights at their levels; in training moves the bases. Gradient: straight through."""
        levels: Tensor = self.quantizer(weight)
        return levels


class LQActProxy(_Proxy):
    """Quantizes activations as LQActivationQuantizer does, after the layer's own activation."""

    def __init__(self, layer: nn.Module, injector: Any) -> None:
        super().__init__(layer)
        self.is_signed = injector.signed
        activation = None if injector.passthrough_act else injector.act_impl
        self.activation = nn.Identity() if activation is None else activation
        self.quantizer = LQActivationQuantizer(injector.bit_width, injector.signed, injector.grid)

    def forward(self, x: Any) -> Tensor:
        """Values at their levels; in training moves the basis."""
        values: Tensor = self.quantizer(self.activation(getattr(x, "value", x)))
        return values


class LQWeightQuant(ExtendedInjector):
    """`weight_quant` of a Brevitas layer.

    weight_bit_width is 1 to 4, weight_grid is as in LQWeightQuantizer.
    """

    proxy_class = LQWeightProxy
    bit_width = 2
    grid = None


class LQActQuant(ExtendedInjector):
    """`input_quant`, `output_quant` or `act_quant` of a Brevitas layer.

    (input_)bit_width is 1 to 4, (input_)signed says that values are negative too, (input_)grid is
    as in LQActivationQuantizer.
    """

    proxy_class = LQActProxy
    bit_width = 2
    signed = False
    grid = None
