"""The largest setting that meets a time budget, as the machine's load changes.

Times are predicted as (what a size takes on the idle machine) x (the load) + (preparation), where
the load is a quantile of the last calls' ratios of measured to idle time, and preparation, which
is cropping (and making a mask) and hardly depends on the size, the same quantile of theirs. A step
down is made at once, a step up only after several calls in a row that had room for it.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from rsquant.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        size: in pixels.
        predicted: seconds that this size is expected to stay under, at the wanted percentile.
        load: by how much calls take longer than on the idle machine, at that percentile.
        fits: whether `predicted` is within the budget; if not, `size` is the smallest.
    """

    size: int
    predicted: float
    load: float
    budget: float
    fits: bool

    @property
    def reason(self) -> str:
        """In words."""
        what = f"{self.size} pixels: {self.predicted * 1e3:.1f} ms expected"
        verb = "within" if self.fits else "the smallest, though over"
        return f"{what} at a load of {self.load:.2f}, {verb} {self.budget * 1e3:.1f} ms"


class _Last:
    """A quantile of the last values."""

    def __init__(self, share: float, window: int, start: float) -> None:
        self._share, self._window, self._start = share, window, start
        self._values: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        self._values.append(value)
        bisect.insort(self._sorted, value)
        if len(self._values) > self._window:
            self.forget()

    def forget(self) -> None:
        """Drop the oldest value."""
        if self._values:
            del self._sorted[bisect.bisect_left(self._sorted, self._values.popleft())]

    @property
    def quantile(self) -> float:
        """Of what there is; the start value before."""
        count = len(self._sorted)
        if not count:
            return self._start
        return self._sorted[max(0, math.ceil(self._share * count) - 1)]


class Budget:
    """Chooses a size for each call.

    Args:
        seconds: size -> seconds of the network on the idle machine, see `rsquant.serve.latency`.
        budget: seconds that a call may take.
        percentile: the share of calls that are to stay within it, in percent.
        window: calls that the load is estimated from.
        patience: calls in a row that must have had room before a larger size is chosen.
        strict: raise ConfigError where the smallest size takes longer on the idle machine.
    Raises:
        ConfigError: a budget, percentile or window out of range.
    """

    # Steps up want this share of the budget left, so that a choice does not swing.
    ROOM = 0.9

    def __init__(
        self,
        seconds: Mapping[int, float],
        budget: float,
        percentile: float = 99.0,
        window: int = 100,
        patience: int = 8,
        strict: bool = False,
    ) -> None:
        if not (math.isfinite(budget) and budget > 0):
            raise ConfigError(f"budget_ms: must be above 0, got {budget * 1000:g}")
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile: must be above 0 and at most 100, got {percentile:g}")
        if window < 1 or patience < 1:
            raise ConfigError(
                f"window and patience: must be 1 or more, got {window} and {patience}"
            )
        if not seconds:
            raise ConfigError("seconds: must have the time of one size or more, got none")
        self.sizes = tuple(sorted(seconds, reverse=True))
        self.budget = budget
        self._idle = dict(seconds)
        smallest = self.sizes[-1]
        if strict and self._idle[smallest] > budget:
            raise ConfigError(
                f"budget_ms: the smallest size, {smallest} pixels, takes "
                f"{self._idle[smallest] * 1e3:.2f} ms here, more than {budget * 1e3:g}; raise the "
                "budget, or drop strict to use that size all the same"
            )
        self._patience = patience
        self._ratios = _Last(percentile / 100, window, 1.0)
        self._preparation = _Last(percentile / 100, window, 0.0)
        self._room = 0
        self._at = self._largest(budget, 1.0)

    @property
    def load(self) -> float:
        """The quantile of the last calls' times against the idle machine's; 1 before any call."""
        return self._ratios.quantile

    def choose(self, left: float | None = None) -> Choice:
        """The size for the next call.

        Args:
            left: seconds that are left of the budget, for an image that has waited; None: all.
        """
        load, preparation = self.load, self._preparation.quantile
        given = self.budget if left is None else left
        budget = given - preparation
        wanted = self._largest(budget, load)
        if wanted >= self._at:  # smaller, or the same
            self._at, self._room = wanted, 0
        else:
            above = self._at - 1
            self._room = self._room + 1 if self._fits(above, budget * self.ROOM, load) else 0
            if self._room >= self._patience:
                self._at, self._room = above, 0
        size = self.sizes[self._at]
        predicted = self._idle[size] * load + preparation
        return Choice(size, predicted, load, given, predicted <= given)

    def fits(self, left: float) -> bool:
        """Whether the smallest size is expected to take no more than so many seconds."""
        return self._fits(len(self.sizes) - 1, left - self._preparation.quantile, self.load)

    def forget(self) -> None:
        """Forget the oldest call: of a picture that was left out nothing is told, and what was slow
        once must not count for ever."""
        self._ratios.forget()
        self._preparation.forget()

    def tell(self, size: int, seconds: float, preparation: float = 0.0) -> None:
        """How long a call at a size took: its network, and all the rest."""
        self._ratios.add(seconds / self._idle[size])
        self._preparation.add(preparation)

    def _fits(self, index: int, budget: float, load: float) -> bool:
        return self._idle[self.sizes[index]] * load <= budget

    def _largest(self, budget: float, load: float) -> int:
        """Index of the largest size that fits; the smallest where none does."""
        last = len(self.sizes) - 1
        return next((i for i in range(last) if self._fits(i, budget, load)), last)
