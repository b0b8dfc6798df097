"""Learning-rate schedules as functions of how far training has come."""

from __future__ import annotations

import math

from rsquant.choices import SCHEDULES
from rsquant.errors import ConfigError

# LQ-Nets: x0.1 at these epochs of 120.
STEPS, STEPS_OF = (30, 60, 85, 95, 105), 120


def learning_rate(
    schedule: str, base: float, epoch: float, epochs: int, warmup: float = 0.0
) -> float:
    """The learning rate at a point of training.

    Args:
        schedule: "step": x0.1 at 30, 60, 85, 95 and 105 of 120 epochs, scaled to other lengths;
            "cosine": from `base` to 0.
        base: the initial rate.
        epoch: epochs done, with the fraction of the current one, 0 .. epochs.
        epochs: total.
        warmup: first epochs in which the rate rises linearly from 0 to the schedule's.
    """
    if schedule == "step":
        passed = sum(epoch * STEPS_OF >= step * epochs for step in STEPS)
        rate = base * 0.1**passed
    elif schedule == "cosine":
        rate = 0.5 * base * (1.0 + math.cos(math.pi * min(1.0, epoch / epochs)))
    else:
        raise ConfigError(f"schedule: must be one of {', '.join(SCHEDULES)}, got '{schedule}'")
    return rate * min(1.0, epoch / warmup) if warmup > 0 else rate
