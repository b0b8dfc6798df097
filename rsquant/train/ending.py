"""The end of a training: BatchNorm statistics of the network as it is then."""

from __future__ import annotations

from rsquant.data.loader import Batches
from rsquant.evaluate.accuracy import Evaluation
from rsquant.nn.copying import copied
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.train.begin import estimate_statistics


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
