"""How a training ends: early, and with BatchNorm statistics of the network as it is then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsquant.data.loader import Batches
from rsquant.evaluate.accuracy import Evaluation
from rsquant.nn.copying import copied
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.train.begin import estimate_statistics


def is_exhausted(progress: Mapping[str, Any], epoch: int, patience: int) -> bool:
    """Whether so many epochs were no better than the best, after `epoch` of them; 0: never."""
    return 0 < patience <= epoch - progress.get("best_epoch", epoch)


def exhausted_line(progress: Mapping[str, Any], epoch: int, patience: int) -> str:
    """What to tell of it."""
    return (
        f"ended early after epoch {epoch}: none of the last {patience} was better than epoch "
        f"{progress['best_epoch']}; `resume` goes on with a larger `patience`, or 0 for no end"
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
