"""What a conversion did: which layers are quantized, which were kept, which could not be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

READS_IMAGE = "reads the image"
HEAD = "head"
NAMED = "named in keep"

# Names of a group in the one-line form; the full form has all of them.
_SHOWN = 8


@dataclass(frozen=True)
class Conversion:
    """Every layer with weights of a converted network, by its name in the network given.

    `str` gives one line per layer that stays in float32.

    Attributes:
        quantized: Conv2d and Linear layers that are low-bit now.
        kept: Conv2d and Linear layers that stay in float32 on purpose -> why.
        left: what stays because it cannot be quantized, or does not run -> why.
        wbits, abits: what was asked for; where both are 32 and `others` is empty, nothing is
            quantized.
        others: low-bit layers that have other bits or another quantizer -> which: "W4A4 lq".
    """

    quantized: tuple[str, ...]
    kept: Mapping[str, str]
    left: Mapping[str, str]
    wbits: int
    abits: int
    others: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: how many layers are quantized, which stay in float32, and why."""
        if not self.quantized and self.wbits == 32 and self.abits == 32:
            parts = ["no layer quantized (32-bit weights and activations)"]
        else:
            parts = [f"{_count(self.quantized)} quantized"]
            if self.others:
                parts.append(f"of them {_grouped(self.others)}")
            parts.append(f"kept: {_grouped(self.kept)}" if self.kept else "none kept")
        if self.left:
            parts.append(f"left in float: {_grouped(self.left)}")
        return ", ".join(parts)

    def __str__(self) -> str:
        lines = [f"{_count(self.quantized)} quantized to W{self.wbits}A{self.abits}"]
        lines += [f"of them {name}: {what}" for name, what in self.others.items()]
        lines += [f"kept in float: {name}: {why}" for name, why in self.kept.items()]
        lines += [f"left in float: {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)} layer{'s' * (len(names) != 1)}"


def _grouped(layers: Mapping[str, str]) -> str:
    """a, b (why), c (another why)"""
    groups: dict[str, list[str]] = {}
    for name, why in layers.items():
        groups.setdefault(why, []).append(name)
    return ", ".join(f"{_some(names)} ({why})" for why, names in groups.items())


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
