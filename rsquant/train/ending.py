"""The end of a training: when it comes, and BatchNorm statistics of the network as it is then."""

from __future__ import annotations

from rsquant.config import TrainConfig
from rsquant.data.loader import Batches
from rsquant.evaluate.accuracy import Evaluation
from rsquant.nn.copying import copied
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.train.begin import estimate_statistics
from rsquant.train.bits_schedule import Phase
from rsquant.train.state import TrainingState


class Ending:
    """Whether a training is at its end: all epochs are done, or `patience` brought no better one.

    Args:
        train: how it is trained.
        phase: the epochs that this state is of.
        state: how far it is.
    """

    def __init__(self, train: TrainConfig, phase: Phase, state: TrainingState) -> None:
        self._train, self._phase, self._state = train, phase, state

    def count(self, is_best: bool) -> None:
        """An epoch is done; whether it was the best so far."""
        progress = self._state.progress
        progress["since_best"] = 0 if is_best else self._since_best + 1

    @property
    def _since_best(self) -> int:
        since: int = self._state.progress.get("since_best", 0)
        return since

    @property
    def is_last_phase(self) -> bool:
        """Whether no phase of other bits follows."""
        return self._phase.end >= self._train.epochs

    @property
    def is_patience_over(self) -> bool:
        """Whether training ends early: enough epochs of the last bits without a better one."""
        patience, is_between_epochs = self._train.patience, self._state.step == 0
        return (
            patience is not None
            and self.is_last_phase
            and is_between_epochs
            and self._since_best >= patience
        )

    @property
    def estimates_statistics(self) -> bool:
        """Whether this phase ends with BatchNorm statistics that are estimated again."""
        return self._train.bn_reestimate > 0 and self.is_last_phase

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        state, train = self._state, self._train
        again = train.bn_reestimate > 0 and state.progress.get("reestimated") != state.epoch
        return (state.epoch >= train.epochs or self.is_patience_over) and not again

    def line(self, figure: str) -> str:
        """What to tell of a run that has ended.

        Args:
            figure: what is better or worse.
        """
        if self._state.epoch >= self._train.epochs:
            return f"all {self._train.epochs} epochs are done already"
        return (
            f"stopped after epoch {self._state.epoch}: {self._since_best} epochs without a better "
            f"mean of {figure} (`patience={self._train.patience}`)"
        )


def with_own_statistics(
    network: SwitchableNetwork, trained: SwitchableNetwork, batches: Batches, count: int
) -> tuple[SwitchableNetwork, int]:
    """A copy with BatchNorm statistics of so many batches, and how many images those had.

    Args:
        trained: the one that was trained, whose BatchNorms in evaluation mode are frozen.
    """
    copy = copied(network)
    for own, other in zip(copy.modules(), trained.modules(), strict=True):
        own.training = other.training
    images = estimate_statistics(copy, batches, count)
    return copy.eval(), images


def compared(before: Evaluation, after: Evaluation) -> str:
    """The main figure at every size, before and after."""
    main = before.task.main
    pairs = zip(before.sizes.items(), after.sizes.values(), strict=True)
    figures = "  ".join(
        f"{size}: {main.show(one.figures()[main.name])} -> {main.show(other.figures()[main.name])}"
        for (size, one), other in pairs
    )
    return f"{main.heading}  {figures}"
