"""Which settings of a ModelSpec change nothing in its network, and why."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from rsquant.errors import ConfigError
from rsquant.nn.switchable import ModelSpec


class Idle(NamedTuple):
    """A setting without effect, in clauses: why it has none, and what to do."""

    why: str
    remedy: str = "leave it out"


def idle_fields(spec: ModelSpec) -> dict[str, Idle]:
    """Fields that change nothing, whatever they are."""
    found = {}
    if not (spec.low_bit_weights or spec.low_bit_activations):
        why = "is of low-bit layers, and this network has none"
        remedy = "give `wbits` or `abits` 1 to 4, or leave it out"
        found = dict.fromkeys(("grid", "quantizer", "layer_quantizer"), Idle(why, remedy))
    if not spec.low_bit_weights:
        why = "normalises low-bit weights, and this network has none"
        found["weight_norm"] = Idle(why, "give `wbits` 1 to 4, or leave it out")
    return found


def check_fields(spec: ModelSpec) -> None:
    """Raise ConfigError for a field that is not as by default and changes nothing.

    Not for networks that are read from files, which may have any.
    """
    usual = {field.name: field.default for field in dataclasses.fields(ModelSpec)}
    for name, idle in idle_fields(spec).items():
        if getattr(spec, name) != usual[name]:
            raise ConfigError(f"{name}: {idle.why}; {idle.remedy}")
