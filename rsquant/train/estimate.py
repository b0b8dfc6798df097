"""How long training will take, from its first steps."""

from __future__ import annotations

# The first step is slower than the others: memory is new, kernels are chosen.
WARM, TIMED = 1, 5
# Validation runs forward alone: about a third of a step's work for as many images.
VALIDATION_SHARE = 1 / 3


class Estimate:
    """Times the first steps of a process and then says once how long all will take.

    Args:
        batch: training images per step.
        val_images: images of one validation.
    """

    def __init__(self, batch: int, val_images: int) -> None:
        self._batch, self._val_images = batch, val_images
        self._steps, self._seconds, self._timed = 0, 0.0, 0.0

    def step(self, seconds: float, steps_left: int, epochs_left: int) -> str | None:
        """A step is done; returns a line for the log after some of them, else None.

        Args:
            seconds: it took, the wait for its images included.
            steps_left: of all epochs.
            epochs_left: whose validation is still to come.
        """
        self._steps += 1
        self._seconds += seconds
        self._timed += seconds if self._steps > WARM else 0.0
        if self._steps != WARM + TIMED:
            return None
        each = self._timed / TIMED
        validation = self._val_images / self._batch * each * VALIDATION_SHARE * epochs_left
        total = self._seconds + each * steps_left + validation
        return (
            f"about {duration(total)} for {self._steps + steps_left} steps and {epochs_left} "
            f"validations, judged by {TIMED} steps of {each:.2g} s"
        )


def duration(seconds: float) -> str:
    """A time in words, to two units at most: 3 d 4 h, 1 h 20 min, 5 min, 40 s."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
