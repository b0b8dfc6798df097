"""The sessions of a file of several settings of bits: made as they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rsquant.errors import ModelError
from rsquant.packed.file import Packed
from rsquant.settings import bits_names

Bits = tuple[int, int]
S = TypeVar("S")


class SettingsSessions(Generic[S]):
    """Sessions by bits; all of one file share its copy in memory.

    Args:
        packed: of the session that holds this, which is not among them.
        make: the session of another setting's network.
    """

    def __init__(self, packed: Packed, make: Callable[[Packed], S]) -> None:
        network = packed.plan.network
        self._own = (network.wbits, network.abits)
        self.bits: tuple[Bits, ...] = tuple(packed.settings) or (self._own,)
        self._packed, self._make = packed, make
        self._made: dict[Bits, S] = {}
        self._lock = threading.Lock()

    def at(self, bits: Bits) -> S | None:
        """The session of a setting; None: the one that holds this. ModelError: there is none."""
        if bits not in self.bits:
            raise ModelError(
                f"{self._packed.path}: has no setting of {bits!r:.40} bits; it has "
                f"{bits_names(self.bits)}, (weights, activations)"
            )
        if bits == self._own:
            return None
        with self._lock:
            if bits not in self._made:
                self._made[bits] = self._make(self._packed.settings[bits])
            return self._made[bits]
