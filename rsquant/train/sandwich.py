"""Which settings a step trains: of more than four, the largest, the smallest and two by chance.

Source: Yu and Huang (arXiv 1903.05134), section 3.1, the sandwich rule.
"""

from __future__ import annotations

import numpy as np

MOST = 4
# So that what a step draws here is independent of what else is drawn for it.
_STREAM = 0x5E77


def rows_of_step(settings: int, seed: int, epoch: int, step: int) -> list[int] | None:
    """Rows of the settings to train, ascending; None: all.

    They follow from where the step is alone, so that a continued run draws the same, and all
    processes of one draw alike.

    Args:
        settings: how many there are, the costliest first.
    """
    if settings <= MOST:
        return None
    drawn = np.random.default_rng(np.random.SeedSequence([seed, epoch, step, _STREAM]))
    others = 1 + drawn.choice(settings - 2, MOST - 2, replace=False)
    return [0, *sorted(others.tolist()), settings - 1]
