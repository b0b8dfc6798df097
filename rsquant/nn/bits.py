"""Networks at several numbers of bits: how one is made, and cut down to one of them.

Weights get nested bases (`quantizers.nested`), activations a quantizer for each number of bits, and
BatchNorms a row for each size at each pair of bits, as sizes have.
"""

from __future__ import annotations

from rsquant.errors import ConfigError
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.quantizers import (
    ActivationQuantizer,
    NestedWeights,
    SwitchedActivations,
    make_activations,
)
from rsquant.quantizers.nested import check_nestable
from rsquant.settings import Bits, bits_names


def check_bits_settings(spec: ModelSpec) -> None:
    """Raise ConfigError for what cannot be combined with several settings of bits."""
    if not spec.bits:
        return
    check_nestable(spec.quantizer, spec.weight_norm)
    for name, given in (
        ("integer", spec.integer),
        ("layer_bits", spec.layer_bits),
        ("layer_quantizer", spec.layer_quantizer),
    ):
        if given:
            raise ConfigError(
                f"bits: several settings of bits cannot be combined with {name}; leave one out"
            )
    if (spec.wbits, spec.abits) != spec.bits[0]:
        raise ConfigError(
            f"bits: wbits and abits must be those of the costliest setting, got {spec.wbits}/"
            f"{spec.abits} and {bits_names(spec.bits)}"
        )


def nest_bits(network: SwitchableNetwork) -> None:
    """Give the quantizers of a network with the most bits all of its `spec.bits`, in place."""
    bits = network.spec.bits
    for module in list(network.body.modules()):
        if isinstance(module, QUANTIZED_LAYERS) and module.weight_quantizer is not None:
            old = module.weight_quantizer
            nested = NestedWeights(len(module.weight), [*{w for w, _ in bits}], old.grid)
            nested.to(module.weight.device).start_from(module.weight)
            module.weight_quantizer = nested.train(old.training)
    for name, module in list(network.body.named_modules()):
        if isinstance(module, ActivationQuantizer):
            new = {a: make_activations(module.kind, a, module.signed, module.grid) for _, a in bits}
            switched = SwitchedActivations(new).train(module.training)
            network.body.set_submodule(name, switched.to(next(module.buffers()).device))


def cut_to_bits(network: SwitchableNetwork, bits: Bits) -> None:
    """Make a network's quantizers those of one pair of its bits, in place; BatchNorms stay."""
    wbits, abits = bits
    for name, module in list(network.body.named_modules()):
        if isinstance(module, SwitchedActivations):
            network.body.set_submodule(name, module.at[str(abits)])
        elif isinstance(module, NestedWeights):
            module.only = wbits
