"""Quantizers: what they are (`base`), which there are (`registry`), and each of them."""

from rsquant.quantizers.base import ActivationQuantizer, IntegerForm, Quantizer, WeightQuantizer
from rsquant.quantizers.calls import carry_through_checkpoints
from rsquant.quantizers.registry import make_activations, make_weights, names, register

__all__ = [
    "ActivationQuantizer", "IntegerForm", "Quantizer", "WeightQuantizer", "make_activations",
    "make_weights", "names", "register",
]  # fmt: skip

# A recomputation that does not know its call gives wrong gradients without a word.
carry_through_checkpoints()
