"""The networks that a run keeps: the last one and the best."""

from __future__ import annotations

from pathlib import Path

from rsquant import runs
from rsquant.models.checkpoint import save
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.train.state import TrainingState


class Checkpoints:
    """Their files in a run folder; how good the best is, the state knows.

    Args:
        run: the run folder.
        state: of the training.
        writes: whether this process writes the files.
    """

    def __init__(self, run: Path, state: TrainingState, writes: bool) -> None:
        self._run, self._state, self._writes = run, state, writes

    def keep(self, network: SwitchableNetwork, mean: float) -> bool:
        """Save a network as the last, and as the best if none had a higher mean; whether it is.

        Args:
            mean: over the sizes, of the task's main figure.
        """
        progress = self._state.progress
        is_best = mean > progress.get("best", -1.0)
        if is_best:
            progress["best"] = mean
        if self._writes:
            save(network, self._run / runs.LAST)
            if is_best:
                save(network, self._run / runs.BEST)
        return is_best
