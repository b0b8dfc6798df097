"""How much a network computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsquant.nn.copying import copied
from rsquant.nn.integer.floats import without_rounding
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.quantizers import InputQuantizer
from rsquant.settings import Variant


@torch.no_grad()
def madds(network: SwitchableNetwork, size: int, variant: Variant | None = None) -> int:
    """Multiply-adds of all Conv2d and Linear layers for one image of size x size pixels.

    Nothing is computed: shapes alone pass through a copy of the network. The published figures
    (RS-Nets, Table 2) are up to 1.3 % higher, as they count some of the other layers too.

    Args:
        variant: of a network with several widths or bits the one meant; None: the costliest.
    """
    network = at_variant(network, variant)
    body = copied(network.body).to("meta").eval()
    if network.spec.integer:
        without_rounding(body)
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        # One product per output value and per weight of its channel.
        total += output.numel() * weight[0].numel()

    for module in body.modules():
        if isinstance(module, QUANTIZED_LAYERS):
            module.weight_quantizer = module.input_quantizer = None
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    _drop_input_quantizers(body)
    body(torch.empty(1, 3, size, size, device="meta"))
    return total


def _drop_input_quantizers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, InputQuantizer):
            setattr(module, name, nn.Identity())
        else:
            _drop_input_quantizers(child)
