"""What a network may be run as, and which rows of its BatchNorm tables belong to that.

A table of BatchNorms has a row for each setting a network was trained at, the costliest first.
Which rows are in force is a `Blend` wherever there are such tables: in training, evaluation,
export, packed files and the runtime.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rsquant.errors import ConfigError, ModelError

Bits = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """What a setting is but for its size.

    Attributes:
        width, bits: as of `Setting`.
    """

    width: float = 1.0
    bits: Bits | None = None

    def __str__(self) -> str:
        """x0.5 2/2; the network as it is has no name."""
        width = "" if self.width == 1 else f"x{self.width:g}"
        return " ".join(
            part for part in (width, bits_names([self.bits] if self.bits else [])) if part
        )


@functools.total_ordering
@dataclass(frozen=True)
class Setting:
    """One way to run a network; sorted, the costliest comes first.

    Attributes:
        size: side of the images in pixels.
        width: share of each layer's channels that is used, above 0 to 1.
        bits: of weights and activations; None where all settings have the network's own.
    """

    size: int
    width: float = 1.0
    bits: Bits | None = None

    @property
    def variant(self) -> Variant:
        """All but its size."""
        return Variant(self.width, self.bits)

    @property
    def cost(self) -> float:
        """What multiply-adds grow with: size^2 width^2 wbits abits."""
        wbits, abits = self.bits or (1, 1)
        return self.size**2 * self.width**2 * wbits * abits

    def __lt__(self, other: Setting) -> bool:
        return self._key() > other._key()

    def _key(self) -> tuple[float, int, float, tuple[int, int]]:
        # Different settings may cost the same; the order must not depend on how they were listed.
        return self.cost, self.size, self.width, self.bits or (0, 0)


class Blend(NamedTuple):
    """Two rows in force: value = (1 - weight) row_i + weight row_j, weight in 0 .. 1.

    A trained setting is its own row twice, with weight 0.
    """

    i: int
    j: int
    weight: float

    @classmethod
    def of_row(cls, row: int) -> Blend:
        """One row alone."""
        return cls(row, row, 0.0)


def of_sizes(resolutions: object) -> tuple[Setting, ...]:
    """The settings of a network that switches its size only, in the order of their rows.

    Args:
        resolutions: sizes in pixels, all different, in any order; or S times the same one, for S
            paths with rows of their own at one size (RS-Nets, table 6).
    Raises:
        ModelError: anything else.
    """
    given = checked_sizes(resolutions)
    if not given or min(given) < 1 or len(set(given)) not in (1, len(given)):
        raise ModelError(
            "resolutions: must be different positive sizes in pixels, or all the same one, "
            f"got {given}"
        )
    return tuple(sorted(map(Setting, given)))


def of_all(resolutions: object, bits: object = (), widths: object = ()) -> tuple[Setting, ...]:
    """The settings of a network: every size at every width and pair of bits, in the order of rows.

    Args:
        resolutions: as of `of_sizes`; all different if there are widths or bits.
        bits: as of `checked_bits`; empty for the network's own alone.
        widths: as of `checked_widths`; empty for the network's own alone.
    Raises:
        ModelError, ConfigError: anything else.
    """
    sizes, pairs, shares = of_sizes(resolutions), checked_bits(bits), checked_widths(widths)
    if not pairs and not shares:
        return sizes
    if len(set(sizes)) < len(sizes):
        what = "bits" if pairs else "widths"
        raise ModelError(
            f"resolutions: several paths at one size cannot be combined with settings of {what}; "
            "give different sizes"
        )
    return tuple(
        sorted(
            Setting(one.size, width, pair)
            for one in sizes
            for width in shares or (1.0,)
            for pair in pairs or (None,)
        )
    )


def variants(settings: Sequence[Setting]) -> tuple[Variant, ...]:
    """What settings differ in but for their sizes, the costliest first."""
    return tuple(dict.fromkeys(one.variant for one in settings))


def variant_of(
    known: Sequence[Variant], width: float | None = None, bits: Bits | None = None
) -> Variant:
    """The variant that is meant; None takes the costliest one's.

    Raises:
        ModelError: there is none of this width and these bits.
    """
    first = known[0]
    wanted = Variant(first.width if width is None else width, first.bits if bits is None else bits)
    if wanted not in known:
        raise ModelError(
            f"settings: none has {told(wanted)}; there are {', '.join(map(told, known))}"
        )
    return wanted


def told(variant: Variant) -> str:
    """As messages have it: width 0.5 and bits 2/2."""
    bits = "" if variant.bits is None else f" and bits {bits_names([variant.bits])}"
    return f"width {variant.width:g}{bits}"


def checked_widths(widths: object) -> tuple[float, ...]:
    """Widths of each setting, as shares of a network's channels: 1 and smaller ones.

    Args:
        widths: above 0 to 1, descending from 1; numbers or texts. Empty: the network's own alone.
    Raises:
        ConfigError: anything else.
    """
    hint = "pass for example (1.0, 0.75, 0.5)"
    if isinstance(widths, (str, bytes)) or not isinstance(widths, Iterable):
        raise ConfigError(f"widths: must be a sequence of shares, got {widths!r:.100}; {hint}")
    try:
        shares = tuple(float(one) for one in widths)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"widths: must be numbers, got {widths!r:.100}; {hint}") from None
    shown = ", ".join(f"{one:g}" for one in shares)
    if not all(0 < one <= 1 for one in shares):
        raise ConfigError(f"widths: must be above 0 to 1, got {shown}; {hint}")
    if len({f"{one:g}" for one in shares}) < len(shares):
        raise ConfigError(f"widths: must be different, got {shown}")
    if list(shares) != sorted(shares, reverse=True) or shares[:1] not in ((), (1.0,)):
        raise ConfigError(f"widths: must descend from 1, the whole network, got {shown}; {hint}")
    return shares


def checked_bits(bits: object) -> tuple[Bits, ...]:
    """Bits of weights and activations of each setting, the costliest first.

    Args:
        bits: pairs (4, 4) or texts "4/4", each of 1 to 4; the costliest has the most of both.
    Raises:
        ConfigError: anything else, or a pair that is there twice.
    """
    hint = 'pass for example ("4/4", "2/2", "1/2")'
    if isinstance(bits, (str, bytes)) or not isinstance(bits, Iterable):
        raise ConfigError(f"bits: must be a sequence of pairs, got {bits!r:.100}; {hint}")
    pairs = [_pair(one, hint) for one in bits]
    if len(set(pairs)) < len(pairs):
        raise ConfigError(f"bits: must be different, got {bits_names(pairs)}")
    pairs.sort(key=lambda pair: (pair[0] * pair[1], pair), reverse=True)
    most = tuple(max(pair[side] for pair in pairs) for side in (0, 1)) if pairs else ()
    if pairs and pairs[0] != most:
        raise ConfigError(
            f"bits: the costliest setting must have the most bits of weights and of activations, "
            f"got {bits_names(pairs)}; add {most[0]}/{most[1]}"
        )
    return tuple(pairs)


def _pair(given: object, hint: str) -> Bits:
    parts: object = given.split("/") if isinstance(given, str) else given
    try:
        wbits, abits = (int(part) for part in parts)  # type: ignore[attr-defined]
        if not isinstance(given, str) and [wbits, abits] != list(parts):  # type: ignore[call-overload]
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(
            f"bits: each must be bits of weights / bits of activations, got {given!r:.60}; {hint}"
        ) from None
    if not (1 <= wbits <= 4 and 1 <= abits <= 4):
        raise ConfigError(
            f"bits: those of several settings must be 1 to 4 on both sides, got {wbits}/{abits}"
        )
    return wbits, abits


def bits_names(pairs: Iterable[Bits]) -> str:
    """4/4, 2/2, 1/2."""
    return ", ".join(f"{wbits}/{abits}" for wbits, abits in pairs)


def checked_sizes(resolutions: object) -> tuple[int, ...]:
    """Sizes in pixels as a user gave them: a tuple of whole numbers, in the same order.

    Raises:
        ModelError: a string, one number, or anything but whole numbers.
    """
    if isinstance(resolutions, (str, bytes)) or not isinstance(resolutions, Iterable):
        hint = "(64, 32)"
        if isinstance(resolutions, str):
            parts = [part.strip() for part in resolutions.split(",")]
            hint = f"({', '.join(parts)},)" if all(p.isdecimal() for p in parts) else hint
        elif isinstance(resolutions, int):
            hint = f"({resolutions},)"
        raise ModelError(
            f"resolutions: must be a sequence of sizes in pixels, got {resolutions!r}; pass {hint}"
        )
    sizes = tuple(resolutions)
    try:
        # A whole float or a number of numpy is a size; a half pixel or a string is not.
        if any(isinstance(size, str) or int(size) != size for size in sizes):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ModelError(
            f"resolutions: must be whole numbers of pixels, got {sizes}; pass for example (64, 32)"
        ) from None
    return tuple(int(size) for size in sizes)


def blend(
    settings: Sequence[Setting],
    size: float,
    width: float | None = None,
    bits: Bits | None = None,
) -> Blend:
    """The rows that belong to a size: of the settings that differ from each other in it alone.

    A trained size is its own row; a size between two blends them linearly; a size outside the
    range takes the nearest end. Of several rows for one setting (paths), the first counts.

    Args:
        settings: sorted, a row each.
        size: side in pixels.
        width, bits: of the settings meant; None takes the costliest one's. They do not blend.
    Raises:
        ModelError: no setting has this width and these bits.
    Source: RS-Nets (arXiv 2007.09558), section 4.3.
    """
    variant = variant_of(variants(settings), width, bits)
    rows = [i for i, one in enumerate(settings) if one.variant == variant]
    sizes = [settings[row].size for row in rows]
    if size >= sizes[0]:
        return Blend.of_row(rows[0])
    if size <= sizes[-1]:
        return Blend.of_row(rows[sizes.index(sizes[-1])])
    lower = next(k for k, one in enumerate(sizes) if one <= size)
    if sizes[lower] == size:
        return Blend.of_row(rows[lower])
    upper = lower - 1
    weight = (sizes[upper] - size) / (sizes[upper] - sizes[lower])
    return Blend(rows[upper], rows[lower], weight)


def distinct(settings: Sequence[Setting]) -> list[int]:
    """The first row of each setting: all there is to deploy, where several paths share one."""
    return [settings.index(one) for one in dict.fromkeys(settings)]


def side(height: int, width: int) -> float:
    """Side in pixels of the square with the area of an image."""
    return float(height) if height == width else math.sqrt(height * width)


def row_names(settings: Sequence[Setting]) -> list[str]:
    """A name for each row, of letters, digits and "_": 96, 96_x0_5, 96_w2a2, 96_x0_5_w2a2.

    Width and bits are named where they differ between settings; of several rows for one setting
    the second is 64_path2.
    """
    widths = len({one.width for one in settings}) > 1
    several_bits = len({one.bits for one in settings}) > 1
    seen: dict[Setting, int] = {}
    found = []
    for one in settings:
        name = str(one.size)
        if widths:
            name += f"_x{one.width:g}".replace(".", "_")
        if several_bits and one.bits is not None:
            name += f"_w{one.bits[0]}a{one.bits[1]}"
        seen[one] = seen.get(one, 0) + 1
        found.append(name if seen[one] == 1 else f"{name}_path{seen[one]}")
    return found
