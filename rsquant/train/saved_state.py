"""The training state on disk: how far it is, and since when."""

from __future__ import annotations

import time
from pathlib import Path

from rsquant.runs import STATE
from rsquant.train.state import TrainingState


class SavedState:
    """The state file of a run folder, beside the state in memory.

    Args:
        run: the run folder.
        state: what is saved and loaded.
        writes: whether this process writes it, or another that has the same state.
    """

    def __init__(self, run: Path, state: TrainingState, writes: bool = True) -> None:
        self.run, self._state, self._writes = run, state, writes
        # Epochs and steps of the file; None: there is none, or one of another training.
        self._at: tuple[int, int] | None = None
        self.restart_clock()

    def load(self, folder: Path | None = None) -> None:
        """Read the file into the state. Raises as `TrainingState.load` does.

        Args:
            folder: where it is read from, if not from the run's own.
        """
        self._state.load((folder or self.run) / STATE)
        self._at = self._state.epoch, self._state.step

    def save(self) -> None:
        """Write the state. Raises as `TrainingState.save` does; an older file is kept then."""
        if self._writes:
            self._state.save(self.run / STATE)
        self._at = self._state.epoch, self._state.step
        self.restart_clock()

    def follow(self, before: SavedState) -> None:
        """Another state of the same file, which holds what this one was made from."""
        self._at = before._at

    def restart_clock(self) -> None:
        """Count minutes from now on."""
        self._since = time.monotonic()

    @property
    def is_current(self) -> bool:
        """Whether the file has every step that was done."""
        return (self._state.epoch, self._state.step) == self._at

    def is_due(self, minutes: float) -> bool:
        """Whether the file lacks steps, and is this old or older; never if `minutes` is 0."""
        return (
            minutes > 0 and not self.is_current and time.monotonic() - self._since >= 60 * minutes
        )

    def __str__(self) -> str:
        """What the run folder keeps, for an error."""
        if self._at is None:
            return "nothing was saved yet"
        epochs, done = self._at
        steps = f" and {done} steps" if done else ""
        return f"{self.run} keeps the network of {epochs} epochs{steps}"
