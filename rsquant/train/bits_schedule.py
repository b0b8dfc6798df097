"""Progressive bits: a network is trained with more bits first, then with fewer.

    4,3,2          epochs are split evenly
    4:5,3:5,2:20   each with its epochs; the last may leave them out, and has those that are left

A phase gives low-bit weights and activations its bits, where they do not have more anyway; the last
phase is the network as it was asked for. What stays in float32 stays so.

Source: two-stage and progressive quantization, arXiv 1711.00205, section 3.2.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from rsquant.config import ModelConfig, RunConfig
from rsquant.errors import ConfigError
from rsquant.nn.precision import FLOAT, bits_text, parse_layer_bits
from rsquant.text import brief


@dataclass(frozen=True)
class Phase:
    """Epochs of a training with the same bits.

    Attributes:
        bits: the fewest of low-bit weights and activations; None: those of the network.
        begin, end: the first epoch, from 0, and the one after the last.
    """

    bits: int | None
    begin: int
    end: int


def phases(config: RunConfig) -> tuple[Phase, ...]:
    """The phases of a training, at least one.

    Raises:
        ConfigError: not a schedule, or not one of this network and these epochs.
    """
    text, epochs = config.train.bits_schedule, config.train.epochs
    if not text:
        return (Phase(None, 0, epochs),)
    bits, given = _parse(text)
    own = [n for n in (config.model.wbits, config.model.abits) if n < FLOAT]
    if not own or bits[-1] != min(own):
        needs = f"{min(own)}, the network's" if own else "none: the network's are 32"
        raise ConfigError(f"bits_schedule: must end with {needs}, got {brief(text)}")
    ends = _ends(text, given, epochs)
    begins = [0, *ends]
    return tuple(map(Phase, bits, begins, ends))


def _parse(text: str) -> tuple[list[int], list[int | None]]:
    """Bits, and their epochs where they are given."""
    parts = [part.strip().partition(":") for part in text.split(",")]
    numbers = [
        number for bits, colon, epochs in parts for number in (bits, epochs)[: 1 + len(colon)]
    ]
    fits = all(n.isascii() and n.isdigit() and len(n) < 7 for n in numbers)
    bits = [int(part[0]) for part in parts] if fits else []
    descends = all(a > b for a, b in itertools.pairwise(bits))
    if not fits or not descends or not all(1 <= n <= 4 for n in bits):
        raise ConfigError(
            "bits_schedule: must be bits from more to fewer, each 1 to 4, like 4,3,2, or with "
            f"epochs, 4:5,3:5,2:20, got {brief(text)}"
        )
    return bits, [int(part[2]) if part[1] else None for part in parts]


def _ends(text: str, given: list[int | None], epochs: int) -> list[int]:
    count = len(given)
    if all(one is None for one in given):
        if epochs < count:
            raise ConfigError(
                f"bits_schedule: {brief(text)} needs {count} epochs or more, got {epochs}"
            )
        return [round((i + 1) * epochs / count) for i in range(count)]
    lengths = [one for one in given[:-1] if one is not None]
    if len(lengths) < count - 1:
        raise ConfigError(
            f"bits_schedule: all bits but the last need epochs, or none, got {brief(text)}"
        )
    last = epochs - sum(lengths) if given[-1] is None else given[-1]
    if min([*lengths, last]) < 1 or sum(lengths) + last != epochs:
        raise ConfigError(
            f"bits_schedule: {brief(text)} must add up to the {epochs} epochs of the training, "
            "with one or more each; change either"
        )
    return [sum(lengths[: i + 1]) for i in range(count - 1)] + [epochs]


def with_epochs(config: RunConfig) -> RunConfig:
    """The same with the epochs written out, all but the last, which more epochs go to."""
    if not config.train.bits_schedule:
        return config
    parts = [f"{phase.bits}:{phase.end - phase.begin}" for phase in phases(config)]
    text = ",".join([*parts[:-1], parts[-1].partition(":")[0]])
    return dataclasses.replace(config, train=dataclasses.replace(config.train, bits_schedule=text))


def in_phase(config: RunConfig, phase: Phase) -> RunConfig:
    """The configuration whose network has the bits of a phase."""
    if phase.bits is None or phase.end == config.train.epochs:
        return config
    least = phase.bits

    def raised(bits: int | None) -> int | None:
        return max(bits, least) if bits is not None else None

    model: ModelConfig = config.model
    layers = {
        one.pattern: bits_text(raised(one.wbits), raised(one.abits))
        for one in parse_layer_bits(model.layer_bits)
    }
    wbits, abits = max(model.wbits, least), max(model.abits, least)
    model = dataclasses.replace(model, wbits=wbits, abits=abits, layer_bits=layers)
    return dataclasses.replace(config, model=model)


def line(config: RunConfig) -> str:
    """What a schedule does, for the log."""
    parts = [f"{p.bits} in epochs {p.begin + 1} to {p.end}" for p in phases(config)]
    return f"bits schedule: {', '.join(parts)}; the best checkpoint is one of the last bits"
