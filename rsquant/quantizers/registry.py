"""Quantizers by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from rsquant.errors import ConfigError
from rsquant.quantizers.base import ActivationQuantizer, WeightQuantizer
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
from rsquant.quantizers.lsq import LSQActivationQuantizer, LSQWeightQuantizer
from rsquant.quantizers.uniform import UniformActivationQuantizer, UniformWeightQuantizer

DEFAULT = "lq"

Weights = Callable[[int, int, "int | None"], WeightQuantizer]
Activations = Callable[[int, bool, "int | None"], ActivationQuantizer]


@dataclass(frozen=True)
class Kind:
    """How quantizers of a name are made.

    Attributes:
        weights: (out_channels, bits, grid) -> quantizer.
        activations: (bits, signed, grid) -> quantizer.
    """

    weights: Weights
    activations: Activations


_KINDS: dict[str, Kind] = {}


def register(name: str, weights: Weights, activations: Activations) -> None:
    """Give a pair of quantizers a name, for `rsquant.create`, `convert` and the command line.

    Args:
        name: of letters, digits, "-" and "_"; a name may be registered again.
        weights: a WeightQuantizer class, or a function, of (out_channels, bits, grid).
        activations: an ActivationQuantizer class, or a function, of (bits, signed, grid).
    Raises:
        ConfigError: a name that cannot be typed.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise ConfigError(f"quantizer: a name has letters, digits, - and _, got {name!r:.60}")
    _KINDS[name] = Kind(weights, activations)


def names() -> tuple[str, ...]:
    """All registered names, in the order of their registration."""
    return tuple(_KINDS)


def make_weights(name: str, out_channels: int, bits: int, grid: int | None) -> WeightQuantizer:
    """A weight quantizer by name. Raises ConfigError for a name that nobody registered."""
    made = kind(name).weights(out_channels, bits, grid)
    made.kind = name
    return made


def make_activations(name: str, bits: int, signed: bool, grid: int | None) -> ActivationQuantizer:
    """An activation quantizer by name. Raises ConfigError for a name that nobody registered."""
    made = kind(name).activations(bits, signed, grid)
    made.kind = name
    return made


def packs(name: str, wbits: int, abits: int) -> bool:
    """Whether networks of these quantizers can be packed: both kinds have an integer form."""
    both = make_weights(name, 1, wbits, None), make_activations(name, abits, False, None)
    return all(quantizer.has_integer_form() for quantizer in both)


def kind(name: str) -> Kind:
    """How the quantizers of a name are made.

    Raises:
        ConfigError: nobody registered it; the nearest name is given.
    """
    if name not in _KINDS:
        close = difflib.get_close_matches(str(name), _KINDS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ConfigError(
            f"quantizer: unknown name '{name!s:.60}'; {hint}known: {', '.join(_KINDS)}; "
            "rsquant.quantizers.register adds one"
        )
    return _KINDS[name]


register(
    DEFAULT,
    # It starts from the layer's weights, whatever the fan-out.
    lambda out_channels, bits, grid: LQWeightQuantizer(out_channels, bits, out_channels, grid),
    LQActivationQuantizer,
)
register("lsq", LSQWeightQuantizer, LSQActivationQuantizer)
register("uniform", UniformWeightQuantizer, UniformActivationQuantizer)
