"""Bits and quantizer of each layer: the network's, or others by patterns of layer names.

A pattern is shell-style (`fnmatch`: *, ?, [ab]) on names as `rsquant info RUN` lists them; * spans
dots. Of several that match a layer the last one wins, for each of weights, activations and
quantizer. Where blocks hold activation quantizers (pre-activation ResNets), a quantizer is as the
layers that read it. A pattern that matches no layer may match such quantizers, by their own names,
and wins over those of their readers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from rsquant.errors import ConfigError
from rsquant.quantizers.registry import DEFAULT, kind
from rsquant.text import brief

FLOAT = 32
BITS = (1, 2, 3, 4, FLOAT)
# Patterns; far above any use.
MAX_PATTERNS = 1000
_OF_32_BITS = "its bits are 32"


@dataclass(frozen=True)
class LayerBits:
    """Bits of the layers that a pattern matches; None leaves that side as it was."""

    pattern: str
    wbits: int | None
    abits: int | None

    def __str__(self) -> str:
        return f"{self.pattern}={bits_text(self.wbits, self.abits)}"


@dataclass(frozen=True)
class LayerQuantizer:
    """Quantizer of the layers that a pattern matches, of weights and inputs."""

    pattern: str
    quantizer: str

    def __str__(self) -> str:
        return f"{self.pattern}={self.quantizer}"


Pattern = LayerBits | LayerQuantizer


@dataclass(frozen=True)
class Precision:
    """Bits of a layer's weights and of its input, the quantizer of both, and the weights' norm."""

    wbits: int
    abits: int
    quantizer: str = DEFAULT
    weight_norm: str = "none"

    @property
    def is_float(self) -> bool:
        return self.wbits == self.abits == FLOAT

    def __str__(self) -> str:
        return f"W{self.wbits}A{self.abits} {self.quantizer}"


def check_bits(wbits: int, abits: int) -> None:
    """Raise ConfigError unless both bit widths are 1 to 4, or 32 for "leave it"."""
    for name, bits in (("wbits", wbits), ("abits", abits)):
        if bits not in BITS:
            raise ConfigError(f"{name}: must be 1, 2, 3, 4, or 32 for float32, got {bits}")


def bits_text(wbits: int | None, abits: int | None) -> str:
    """2/4; a side that is left as it was is empty: 2/ or /4."""
    return "/".join("" if bits is None else str(bits) for bits in (wbits, abits))


def parse_layer_bits(given: Mapping[str, Any] | None) -> tuple[LayerBits, ...]:
    """Patterns to bits as users give them, in their order.

    Args:
        given: pattern -> (wbits, abits), None for a side that stays; or text, "4/4", "4/", "/4".
    Raises:
        ConfigError: not that, or bits that no layer can have.
    """
    return tuple(_layer_bits(p, value) for p, value in _patterns("layer_bits", given))


def parse_layer_quantizer(given: Mapping[str, Any] | None) -> tuple[LayerQuantizer, ...]:
    """Patterns to names of quantizers, in their order. Raises ConfigError for an unknown name."""
    found = []
    for pattern, name in _patterns("layer_quantizer", given):
        kind(name, f"layer_quantizer: {brief(pattern)}")
        found.append(LayerQuantizer(pattern, name))
    return tuple(found)


def _patterns(what: str, given: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what}: must map patterns of layer names, got {brief(given)}")
    for pattern in given:
        if not isinstance(pattern, str) or not pattern:
            raise ConfigError(f"{what}: a pattern must be text, got {brief(pattern)}")
    if len(given) > MAX_PATTERNS:
        raise ConfigError(f"{what}: at most {MAX_PATTERNS} patterns, got {len(given)}")
    return list(given.items())


def _layer_bits(pattern: str, value: Any) -> LayerBits:
    parts: Sequence[Any] = ()
    if isinstance(value, str):
        parts = [part.strip() or None for part in value.split("/")]
        parts = [int(p) if p is not None and p.isascii() and p.isdigit() else p for p in parts]
    elif isinstance(value, (list, tuple)):
        parts = value
    fits = len(parts) == 2 and all(p is None or (type(p) is int and p in BITS) for p in parts)
    if not fits or parts[0] is parts[1] is None:
        raise ConfigError(
            f"layer_bits: {brief(pattern)} needs bits of weights and of activations like 4/4, "
            f"each 1, 2, 3, 4 or 32, or one of them (4/ or /4), got {brief(value)}"
        )
    return LayerBits(pattern, parts[0], parts[1])


@dataclass(frozen=True)
class Precisions:
    """What each layer of a network has.

    Attributes:
        default: what layers have that no pattern matches.
        bits, quantizers: patterns, later ones win.
    """

    default: Precision
    bits: tuple[LayerBits, ...] = ()
    quantizers: tuple[LayerQuantizer, ...] = ()

    def of(self, name: str) -> Precision:
        """Of a layer."""
        return _apply(self.default, name, self.bits, self.quantizers)

    def of_shared(
        self, name: str, readers: Sequence[str], layers: Sequence[str]
    ) -> tuple[int, str]:
        """Bits and name of an activation quantizer that a block holds.

        Args:
            name: of the quantizer.
            readers: the layers that read what it gives, at least one.
            layers: all layers: a pattern that matches one of them does not mean the quantizer.
        Raises:
            ConfigError: two readers differ.
        """
        bits = tuple(p for p in self.bits if not _matches(p.pattern, layers))
        kinds = tuple(p for p in self.quantizers if not _matches(p.pattern, layers))
        first, *others = readers
        chosen, names = self.of(first), {}
        for other in others:
            theirs = self.of(other)
            if theirs.abits != chosen.abits:
                names["layer_bits"] = (other, f"{chosen.abits} and {theirs.abits} bits")
            if theirs.quantizer != chosen.quantizer:
                names["layer_quantizer"] = (other, f"{chosen.quantizer} and {theirs.quantizer}")
        own = _apply(Precision(0, 0, ""), name, bits, kinds)
        settled = {"layer_bits": own.abits, "layer_quantizer": own.quantizer}
        for what, (other, differ) in names.items():
            if not settled[what]:
                example = f"{name}=/{chosen.abits}" if what == "layer_bits" else f"{name}=NAME"
                raise ConfigError(
                    f"{what}: {first} and {other} share the activation quantizer {name}, but "
                    f"need {differ}; give both the same, or name the quantizer: {example}"
                )
        return own.abits or chosen.abits, own.quantizer or chosen.quantizer

    def check(self, layers: Mapping[str, str | None], shared: Sequence[str] = ()) -> None:
        """Raise ConfigError for a pattern that means nothing in a network.

        Args:
            layers: every layer with weights -> why it stays in float32; None for a low-bit one.
            shared: names of the activation quantizers that blocks hold.
        """
        floats = {
            name: _OF_32_BITS if why is None and self.of(name).is_float else why
            for name, why in layers.items()
        }
        groups: tuple[tuple[str, Sequence[Pattern], Mapping[str, str | None]], ...] = (
            ("layer_bits", self.bits, layers),
            ("layer_quantizer", self.quantizers, floats),
        )
        for what, patterns, whys in groups:
            for index, one in enumerate(patterns):
                _check_pattern(what, one, patterns[index + 1 :], whys, shared)
        live = [self.of(name) for name, why in layers.items() if why is None]
        for side, whole in (("wbits", self.default.wbits), ("abits", self.default.abits)):
            if self.bits and live and whole < FLOAT <= min(getattr(p, side) for p in live):
                raise ConfigError(
                    f"layer_bits: leaves no layer with {side} below 32, where the network's are "
                    f"{whole}; give {side} 32, or leave out a pattern"
                )


def _apply(
    start: Precision, name: str, bits: Sequence[LayerBits], kinds: Sequence[LayerQuantizer]
) -> Precision:
    found = start
    for one in bits:
        if fnmatchcase(name, one.pattern):
            wbits = found.wbits if one.wbits is None else one.wbits
            abits = found.abits if one.abits is None else one.abits
            found = replace(found, wbits=wbits, abits=abits)
    for other in kinds:
        if fnmatchcase(name, other.pattern):
            found = replace(found, quantizer=other.quantizer)
    return found


def _matches(pattern: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [name for name in names if fnmatchcase(name, pattern)]


def nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Beginnings of names that are most like the part of a pattern before its first wildcard."""
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rstrip(".")
    if not fixed:
        return []
    parts = fixed.count(".") + 1
    # Last to first: of equally near ones difflib gives the last.
    beginnings = dict.fromkeys(".".join(name.split(".")[:parts]) for name in reversed(names))
    return difflib.get_close_matches(fixed, list(beginnings), n=3, cutoff=0.0)


def _check_pattern(
    what: str,
    one: Pattern,
    later: Sequence[Pattern],
    layers: Mapping[str, str | None],
    shared: Sequence[str],
) -> None:
    matched = _matches(one.pattern, layers)
    own = [] if matched else _matches(one.pattern, shared)
    if not matched and not own:
        near = nearest(one.pattern, [*layers, *shared])
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ConfigError(
            f"{what}: {brief(one.pattern)} matches no layer{hint} (rsquant info RUN lists them)"
        )
    if own and isinstance(one, LayerBits) and one.wbits is not None:
        raise ConfigError(
            f"{what}: '{one}' names an activation quantizer ({own[0]}), which has no weights; "
            f"give it as {one.pattern}=/{one.abits or one.wbits}"
        )
    live = own or [name for name in matched if layers[name] is None]
    if not live:
        if isinstance(one, LayerBits) and {one.wbits, one.abits} <= {None, FLOAT}:
            return  # what they are
        name = matched[0]
        remedy = "in Python choose those layers with rsquant.convert(keep=...)"
        if layers[name] == _OF_32_BITS:
            remedy = "give them 1 to 4"
        raise ConfigError(
            f"{what}: '{one}' matches only layers that stay in float32 ({name}: {layers[name]}); "
            f"leave it out, or {remedy}"
        )
    if not any(_left(one, [p for p in later if fnmatchcase(name, p.pattern)]) for name in live):
        raise ConfigError(
            f"{what}: '{one}' has no effect, later patterns win on every layer it matches; leave "
            "it out, or put it after them"
        )


def _left(one: Pattern, later: Sequence[Pattern]) -> bool:
    """Whether something of a pattern is left by those behind it that match the same layer."""
    if isinstance(one, LayerQuantizer):
        return not later
    return any(
        getattr(one, side) is not None and all(getattr(p, side) is None for p in later)
        for side in ("wbits", "abits")
    )
