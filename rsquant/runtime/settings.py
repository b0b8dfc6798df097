"""The sessions of a file of several widths or bits: what they have in common, made as used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from rsquant.errors import ModelError
from rsquant.packed.file import Packed
from rsquant.runtime.pixels import PixelReader
from rsquant.settings import Bits, Variant, bits_names

S = TypeVar("S")


class SettingsSessions(Generic[S]):
    """Sessions by width and bits; all of one file share its copy in memory.

    Args:
        packed: of the session that holds this, which is not among them.
        make: the session of another setting's network.
    """

    def __init__(self, packed: Packed, make: Callable[[Packed], S]) -> None:
        self._packed, self._make = packed, make
        self._own = packed.variants[0]
        self.bits: tuple[Bits, ...] = tuple(
            dict.fromkeys(one.bits for one in packed.variants if one.bits)
        )
        self.widths = tuple(dict.fromkeys(one.width for one in packed.variants))
        self._made: dict[Variant, S] = {}
        self._lock = threading.Lock()

    def at(self, width: float | None, bits: Bits | None) -> S | None:
        """The session of a setting; None: the one that holds this. ModelError: there is none."""
        if bits is not None and bits not in self.bits:
            raise ModelError(
                f"{self._packed.path}: has no setting of {bits!r:.40} bits; it has "
                f"{bits_names(self.bits)}, (weights, activations)"
            )
        if width is not None and width not in self.widths:
            raise ModelError(
                f"{self._packed.path}: has no width {width!r:.40}; it has "
                f"{', '.join(f'{one:g}' for one in self.widths)}"
            )
        variant = Variant(width or self._own.width, bits or self._own.bits)
        if variant == self._own:
            return None
        with self._lock:
            if variant not in self._made:
                self._made[variant] = self._make(self._packed.settings[variant])
            return self._made[variant]


class PackedSession:
    """What the sessions of all devices have.

    Args:
        packed: what they run.
        interpolate: whether sizes between the packed ones run.
        make: the session of another setting's network, with the same options.
    """

    def __init__(self, packed: Packed, interpolate: bool, make: Callable[[Packed], Self]) -> None:
        self.packed, self.interpolate = packed, interpolate
        self._others = SettingsSessions(packed, make)
        self.bits, self.widths = self._others.bits, self._others.widths
        network = packed.plan.network
        self.resolutions: tuple[int, ...] = network.resolutions
        self.classes: tuple[str, ...] = network.classes
        self.gives_maps = packed.plan.gives_maps
        self._pixels = PixelReader(network.mean, network.std)

    def at(self, *, bits: Bits | None = None, width: float | None = None) -> Self:
        """The session of another setting in the file, with the same options.

        It is made at the first call, with layouts and working memory of its own.

        Raises:
            ModelError: the file has no such setting.
        """
        return self._others.at(width, bits) or self

    def _is_packed(self, size: tuple[int, int]) -> bool:
        return size[0] == size[1] and size[0] in self.resolutions
