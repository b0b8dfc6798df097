"""The optimizers by name, and the tensors of theirs that a run continues from."""

from __future__ import annotations

from typing import Any

import torch

from rsquant.choices import OPTIMIZERS, listed
from rsquant.config import TrainConfig
from rsquant.errors import ConfigError


def check_optimizer(train: TrainConfig) -> None:
    """Raise ConfigError for an unknown name, or settings that exclude each other."""
    if train.optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer: must be {listed(OPTIMIZERS)}, got '{train.optimizer}'")
    if train.optimizer == "sgd" and train.nesterov and train.momentum == 0:
        raise ConfigError("nesterov: needs a `momentum` above 0, or `nesterov=False`")


def make_optimizer(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration.

    Args:
        groups: of `parameter_groups`.
        train: its optimizer, lr, momentum, nesterov, betas and weight decay. Adam adds the decay to
            the gradient, AdamW shrinks the weights by lr times the decay
            (arXiv 1412.6980, 1711.05101).
    """
    decay = train.weight_decay
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=decay,
            nesterov=train.nesterov,
        )
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=train.lr, betas=train.betas, weight_decay=decay)
