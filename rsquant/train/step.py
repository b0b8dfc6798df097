"""One step of training: a batch at every setting, one update of the weights they share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rsquant.config import TrainConfig
from rsquant.data.transforms import normalise
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.settings import row_names
from rsquant.tasks import by_name
from rsquant.train.data_parallel import average_statistics, data_parallel, statistics_of
from rsquant.train.losses import mred


class Step:
    """Forward at every setting, the loss, backward, the optimizer.

    Args:
        network, alpha: what the optimizer moves.
        optimizer: its groups get the rate of each step.
        train: how.
        device: where the network is.
        group: the processes that each do a part of every batch.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        alpha: Tensor,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        device: torch.device,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.network, self.alpha, self.optimizer = network, alpha, optimizer
        self.train, self.device = train, device
        self.task = by_name(network.spec.task)
        self._settings = row_names(network.settings)
        self.group = group
        self._forward_all = data_parallel(network, device, group)

    def __call__(
        self, images: Sequence[Tensor], labels: Tensor, rate: float, share: float = 1.0
    ) -> dict[str, float]:
        """Do one step.

        Of several processes each gives its part of the batch; afterwards all have the same bits.

        Args:
            images: of each size, the largest first: (N, 3, R, R) uint8.
            labels: as the task has them.
            rate: the learning rate.
            share: of the batch's images that are here.
        Returns:
            What it gave, means over the whole batch: the loss and its parts, and the task's
            figures of the ensemble and of every setting.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = labels.to(self.device, non_blocking=True)
        spec = self.network.spec
        inputs = [
            normalise(x.to(self.device, non_blocking=True), spec.mean, spec.std) for x in images
        ]
        with self._autocast(), statistics_of(self.group):
            outputs = [z.float() for z in self._forward_all(inputs)]
        loss = mred(outputs, labels, self.alpha, self.train.distillation, self.task)
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients become means over the processes, whose parts may differ in size.
        weight = share * self.group.world
        (loss.total if weight == 1 else loss.total * weight).backward()
        self.group.average([self.alpha.grad] if self.alpha.grad is not None else [])
        self.optimizer.step()
        average_statistics(self.network, self.group)
        figures = {
            "loss": loss.total.item(),
            self.task.loss_name: loss.classification.item(),
            "ensemble": loss.ensemble.item(),
            "distillation": loss.distillation.item(),
        }
        named = {
            "ensemble": loss.ensemble_logits,
            **dict(zip(self._settings, outputs, strict=True)),
        }
        for name, output in named.items():
            of_batch = self.task.step_figures(output.detach(), labels)
            figures |= {f"{figure}_{name}": number for figure, number in of_batch.items()}
        if self.group.world > 1:
            values = torch.tensor(list(figures.values()), dtype=torch.float64)
            figures = dict(zip(figures, self.group.mean(values, share).tolist(), strict=True))
        return figures

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.train.amp:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)
