"""Counts and sums of activations over the parts of a batch that go through a network one by one.

In the parts the bases stay as they are; afterwards each moves by what all parts gave, as often as
the quantizer ran in a part. With one run per part that is what the whole batch at once gives.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from rsquant.quantizers.calls import PerCall

if TYPE_CHECKING:
    from rsquant.quantizers.lq import LQActivationQuantizer


class _Run(NamedTuple):
    counts: Tensor
    sums: Tensor
    pattern: Tensor


class Gathering:
    """What quantizers counted in the parts so far."""

    def __init__(self) -> None:
        self._runs: dict[LQActivationQuantizer, list[_Run]] = {}
        self._calls: Counter[LQActivationQuantizer] = Counter()

    def begin_part(self) -> None:
        """The next call of each quantizer is its first of a part."""
        self._calls.clear()

    def add(
        self, quantizer: LQActivationQuantizer, counts: Tensor, sums: Tensor, pattern: Tensor
    ) -> None:
        """What a quantizer counted, (L,) each, and its levels' patterns (L, K)."""
        runs = self._runs.setdefault(quantizer, [])
        call = self._calls[quantizer]
        self._calls[quantizer] += 1
        if call == len(runs):
            runs.append(_Run(counts, sums, pattern))
        else:
            old = runs[call]
            runs[call] = _Run(old.counts + counts, old.sums + sums, pattern)

    def settle(self) -> None:
        """Move the bases."""
        for quantizer, runs in self._runs.items():
            for run in runs:
                quantizer.move(*run)


# In force in the parts of a batch; None elsewhere: quantizers move as they run.
GATHERING = PerCall(None)
