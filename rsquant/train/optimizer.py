"""The optimizer of a training, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsquant.config import TrainConfig
from rsquant.train.parameter_groups import parameter_groups


def make_optimizer(network: nn.Module, alpha: Tensor, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a network and of the scores of its ensemble.

    sgd: v <- momentum v + g; w <- w - lr v, with or without Nesterov's momentum.
    adam, adamw: m, s <- averages of g and g^2 by `betas`; w <- w - lr m' / (sqrt(s') + 1e-8), m'
    and s' without the bias of their start.
    Weight decay acts on what `decay` names: sgd and adam add weight_decay w to g, adamw takes
    lr weight_decay w from w.

    Source: Kingma and Ba (arXiv 1412.6980); Loshchilov and Hutter (arXiv 1711.05101).
    """
    groups = parameter_groups(network, alpha, train.decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            nesterov=train.nesterov,
        )
    kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay)
