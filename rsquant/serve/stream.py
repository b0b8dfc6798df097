"""Pictures that come at their own pace: each has a deadline from the moment it came."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rsquant.decoding import Pixels
from rsquant.errors import ConfigError
from rsquant.serve.predictor import Prediction, Predictor

Overload = Literal["degrade", "drop"]
OVERLOADS = ("degrade", "drop")
# Pictures that wait; older ones are dropped, or no memory would be enough.
_MOST = 64


@dataclass(frozen=True)
class Streamed:
    """A prediction of a stream.

    Attributes:
        number: of the picture, counted from 0 over all that came.
        latency: seconds from when the picture came to its labels.
        late: whether that is more than the budget.
        dropped: pictures left out before this one.
    """

    number: int
    pixels: Pixels
    prediction: Prediction
    latency: float
    late: bool
    dropped: int


def stream(
    predictor: Predictor, pictures: Iterable[Pixels], overload: Overload = "degrade"
) -> Iterator[Streamed]:
    """Predict pictures as they come, each within the predictor's budget from when it came.

    A picture that has waited gets the largest size that fits into what is left of its time. Where
    even the smallest does not fit, "degrade" uses the smallest, late; "drop" leaves it out.

    Args:
        predictor: made with `budget_ms`.
        pictures: (H, W, 3) uint8; read by a thread of its own. Of more than 64 that wait, the
            oldest are dropped.
    Raises:
        ConfigError: a predictor without a budget. What `pictures` raises.
    """
    budget = predictor.budget
    if budget is None:
        raise ConfigError("stream: the predictor has no budget; give `budget_ms`")
    if overload not in OVERLOADS:
        raise ConfigError(f"overload: must be degrade or drop, got '{overload}'")
    source = _Source(pictures)
    dropped = 0
    try:
        while (item := source.next()) is not None:
            number, came, pixels, lost = item
            dropped += lost
            left = budget.budget - (time.perf_counter() - came)
            if overload == "drop" and not budget.fits(max(left, 0.0)):
                budget.forget()
                dropped += 1
                continue
            prediction = predictor(pixels, left=max(left, 0.0))
            latency = time.perf_counter() - came
            yield Streamed(number, pixels, prediction, latency, latency > budget.budget, dropped)
            dropped = 0
    finally:
        source.stop()


class _Source:
    """Reads pictures in a thread and notes when each came."""

    def __init__(self, pictures: Iterable[Pixels]) -> None:
        self._pictures = pictures
        self._waiting: deque[tuple[int, float, Pixels]] = deque()
        self._lost = 0
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> tuple[int, float, Pixels, int] | None:
        """The picture that waits longest, with those lost before it; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                if self._error is not None:
                    raise self._error
                return None
            lost, self._lost = self._lost, 0
            return *self._waiting.popleft(), lost

    def stop(self) -> None:
        with self._change:
            self._stopped = True
        self._thread.join(1)  # it ends with the next picture

    def _read(self) -> None:
        try:
            for number, pixels in enumerate(self._pictures):
                with self._change:
                    if self._stopped:
                        return
                    self._waiting.append((number, time.perf_counter(), pixels))
                    if len(self._waiting) > _MOST:
                        self._waiting.popleft()
                        self._lost += 1
                    self._change.notify()
        except BaseException as error:  # raised where the stream is read
            self._error = error
        finally:
            if hasattr(self._pictures, "close"):  # a camera, of a generator
                self._pictures.close()
            with self._change:
                self._ended = True
                self._change.notify()
