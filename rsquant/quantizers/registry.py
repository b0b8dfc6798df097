"""Quantizers by name."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsquant.errors import ConfigError
from rsquant.quantizers.base import ActivationQuantizer, WeightQuantizer
from rsquant.quantizers.learned_thresholds import LearnedThresholds
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer
from rsquant.quantizers.lsq import LSQActivationQuantizer, LSQWeightQuantizer
from rsquant.quantizers.uniform import UniformActivationQuantizer, UniformWeightQuantizer
from rsquant.quantizers.weight_norm import NormalisedWeights
from rsquant.text import did_you_mean, one_line

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


def make_weights(
    name: str, out_channels: int, bits: int, grid: int | None, weight_norm: str = "none"
) -> WeightQuantizer:
    """A weight quantizer by name. Raises ConfigError for a name that nobody registered."""
    made = kind(name).weights(out_channels, bits, grid)
    made.kind = name
    return made if weight_norm == "none" else NormalisedWeights(made, weight_norm)


def make_activations(name: str, bits: int, signed: bool, grid: int | None) -> ActivationQuantizer:
    """An activation quantizer by name. Raises ConfigError for a name that nobody registered."""
    made = kind(name).activations(bits, signed, grid)
    made.kind = name
    return made


def kind(name: str, where: str = "quantizer") -> Kind:
    """How the quantizers of a name are made.

    Args:
        where: what has the name, for the message.
    Raises:
        ConfigError: nobody registered it; the nearest name is given.
    """
    if not isinstance(name, str) or name not in _KINDS:
        hint = did_you_mean(name, _KINDS)
        raise ConfigError(
            f"{where}: unknown name '{one_line(name, 60)}'; {hint}known: {', '.join(_KINDS)}; "
            "rsquant.quantizers.register adds one"
        )
    return _KINDS[name]


def _lq_weights(out_channels: int, bits: int, grid: int | None) -> WeightQuantizer:
    # It starts from the layer's weights, whatever the fan-out.
    return LQWeightQuantizer(out_channels, bits, out_channels, grid)


register(DEFAULT, _lq_weights, LQActivationQuantizer)
register("lq-thresholds", _lq_weights, LearnedThresholds)
register("lsq", LSQWeightQuantizer, LSQActivationQuantizer)
register("uniform", UniformWeightQuantizer, UniformActivationQuantizer)


def _baselines(name: str) -> Any:
    """The module of Brevitas's quantizers, which takes long to import.

    Raises:
        ConfigError: Brevitas is not installed.
    """
    # Brevitas imports torch's builder of extensions, which warns of a CUDA compiler without a GPU.
    builder = logging.getLogger("torch.utils.cpp_extension")
    level = builder.level
    try:
        builder.setLevel(logging.ERROR)
        return importlib.import_module("rsquant.quantizers.brevitas_baselines")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "rsquant":
            raise
        raise ConfigError(
            f"quantizer: '{name}' needs the package brevitas ({error.name} is not installed); "
            "pip install brevitas, or choose another quantizer"
        ) from error
    finally:
        builder.setLevel(level)


def _register_brevitas(name: str) -> None:
    def weights(out_channels: int, bits: int, grid: int | None) -> WeightQuantizer:
        made: WeightQuantizer = _baselines(name).WEIGHTS[name](out_channels, bits, grid)
        return made

    def activations(bits: int, signed: bool, grid: int | None) -> ActivationQuantizer:
        made: ActivationQuantizer = _baselines(name).BrevitasActivations(bits, signed, grid)
        return made

    register(name, weights, activations)


for _name in ("brevitas-default", "brevitas-learned", "brevitas-mse"):
    _register_brevitas(_name)
