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
from rsquant.settings import row_names
from rsquant.tasks import by_name
from rsquant.train.losses import mred
from rsquant.train.teacher import Teacher


class Step:
    """Forward at every setting, the loss, backward, the optimizer.

    Args:
        network, alpha: what the optimizer moves.
        optimizer: its groups get the rate of each step.
        train: how.
        device: where the network is.
        teacher: another network, on the same device; None: there is none.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        alpha: Tensor,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        device: torch.device,
        teacher: Teacher | None = None,
    ) -> None:
        self.network, self.alpha, self.optimizer = network, alpha, optimizer
        self.train, self.device, self.teacher = train, device, teacher
        self.task = by_name(network.spec.task)
        self._settings = row_names(network.settings)

    def __call__(self, images: Sequence[Tensor], labels: Tensor, rate: float) -> dict[str, float]:
        """Do one step.

        Args:
            images: of each size, the largest first: (N, 3, R, R) uint8.
            labels: as the task has them.
            rate: the learning rate.
        Returns:
            What it gave, means over the batch: the loss and its parts, and the task's figures of
            the ensemble and of every setting.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = labels.to(self.device, non_blocking=True)
        spec = self.network.spec
        images = [x.to(self.device, non_blocking=True) for x in images]
        inputs = [normalise(x, spec.mean, spec.std) for x in images]
        with self._autocast():
            taught = self.teacher(images) if self.teacher else []
            outputs = [z.float() for z in self.network.forward_all(inputs)]
        loss = mred(
            outputs,
            labels,
            self.alpha,
            self.train.distillation,
            self.task,
            taught,
            self.train.labels,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.optimizer.step()
        figures = {
            "loss": loss.total.item(),
            self.task.loss_name: loss.classification.item(),
            "ensemble": loss.ensemble.item(),
            "distillation": loss.distillation.item(),
        }
        if self.teacher:
            figures["teacher"] = loss.teacher.item()
        named = {
            "ensemble": loss.ensemble_logits,
            **dict(zip(self._settings, outputs, strict=True)),
        }
        for name, output in named.items():
            of_batch = self.task.step_figures(output.detach(), labels)
            figures |= {f"{figure}_{name}": number for figure, number in of_batch.items()}
        return figures

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.train.amp:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)
