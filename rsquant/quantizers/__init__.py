"""Quantizers: what they are (`base`), which there are (`registry`), and each of them."""

from rsquant.packages import require

require(__name__, "train", "torch")

from rsquant.quantizers.base import (
    ActivationQuantizer,
    InputQuantizer,
    IntegerForm,
    Quantizer,
    WeightQuantizer,
    quantizers_of,
)
from rsquant.quantizers.calls import carry_through_checkpoints
from rsquant.quantizers.nested import NestedWeights, SwitchedActivations
from rsquant.quantizers.registry import (
    kind,
    make_activations,
    make_weights,
    names,
    register,
)
from rsquant.quantizers.rounding import straight_through

__all__ = [
    "ActivationQuantizer",
    "InputQuantizer",
    "IntegerForm",
    "NestedWeights",
    "Quantizer",
    "SwitchedActivations",
    "WeightQuantizer",
    "kind",
    "make_activations",
    "make_weights",
    "names",
    "quantizers_of",
    "register",
    "straight_through",
]

# A recomputation that does not know its call gives wrong gradients without a word.
carry_through_checkpoints()
