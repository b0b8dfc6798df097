"""One width and one pair of bits of a network: a network that switches its size only."""

from __future__ import annotations

import dataclasses

from rsquant.nn.bits import cut_to_bits
from rsquant.nn.copying import copied
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.widths import cut_to_width
from rsquant.settings import Setting, Variant, variant_of


def at_variant(network: SwitchableNetwork, variant: Variant | None = None) -> SwitchableNetwork:
    """A copy of a network at one of its widths and pairs of bits, as if made for those alone.

    Args:
        variant: None: the costliest. A network without such settings is returned as it is.
    Raises:
        ModelError: the network has no such setting.
    """
    spec = network.spec
    if not spec.several:
        return network
    known = network.variants
    variant = known[0] if variant is None else variant_of(known, variant.width, variant.bits)
    rows = [i for i, one in enumerate(network.settings) if one.variant == variant]
    network = copied(network)
    for module in network.body.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            module.keep_rows(rows)
    fields = dict(network.forms[variant.width]) if spec.widths else {}
    if spec.widths:
        cut_to_width(network, variant.width)
    if variant.bits is not None:
        cut_to_bits(network, variant.bits)
        fields |= {"wbits": variant.bits[0], "abits": variant.bits[1]}
    network.active.settings = tuple(Setting(network.settings[row].size) for row in rows)
    network.spec = dataclasses.replace(spec, bits=(), widths=(), **fields)
    return network
