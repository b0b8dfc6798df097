"""One step of training: a batch at every setting, one update of the weights they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsquant.config import TrainConfig
from rsquant.data.transforms import normalise
from rsquant.nn.parts import parts_of_a_batch
from rsquant.nn.recompute import blocks, recomputed
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.settings import row_names
from rsquant.tasks import Task, by_name
from rsquant.train.losses import mred
from rsquant.train.precision import MixedPrecision
from rsquant.train.teacher import Teacher


class Step:
    """Forward at every setting, the loss, backward, the optimizer.

    Args:
        network, alpha: what the optimizer moves.
        optimizer: its groups get the rate of each step.
        train: how.
        device: where the network is.
        task: whose loss is meant; None: the network's, without weights of classes.
        teacher: another network, on the same device; None: there is none.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        alpha: Tensor,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        device: torch.device,
        task: Task | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.network, self.alpha, self.optimizer = network, alpha, optimizer
        self.train, self.device, self.teacher = train, device, teacher
        self.task = by_name(network.spec.task) if task is None else task
        self._settings = row_names(network.settings)
        self.precision = MixedPrecision(train.amp, device)
        self._recomputed = blocks(network.body) if train.recompute else []

    def __call__(
        self, images: Sequence[Tensor], labels: Tensor, rate: float
    ) -> dict[str, Tensor | float]:
        """Do one step. Nothing in it waits for the device.

        Args:
            images: of each size, the largest first: (N, 3, R, R) uint8.
            labels: as the task has them.
            rate: the learning rate.
        Returns:
            What it gave, means over the batch: the loss and its parts, and the task's figures of
            the ensemble and of every setting. Scalars, tensors where they are on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        # A BatchNorm needs two images.
        parts = max(1, min(self.train.accumulate, len(labels) // 2))
        with recomputed(self._recomputed):
            if parts == 1:
                figures = self._part(images, labels, 1.0)
            else:
                figures = self._parts(images, labels, parts)
        self.precision.update(self.optimizer)
        return figures

    def _parts(
        self, images: Sequence[Tensor], labels: Tensor, parts: int
    ) -> dict[str, Tensor | float]:
        sums: dict[str, Tensor | float] = {}
        pieces = zip(
            *(x.tensor_split(parts) for x in images), labels.tensor_split(parts), strict=True
        )
        with parts_of_a_batch(self.network) as gathering:
            for *some, their_labels in pieces:
                gathering.begin_part()
                share = len(their_labels) / len(labels)
                for name, figure in self._part(some, their_labels, share).items():
                    sums[name] = sums.get(name, 0.0) + figure * share
        return sums

    def _part(
        self, images: Sequence[Tensor], labels: Tensor, share: float
    ) -> dict[str, Tensor | float]:
        """Forward and backward of this share of the batch; gradients add up."""
        labels = labels.to(self.device, non_blocking=True)
        spec = self.network.spec
        images = [x.to(self.device, non_blocking=True) for x in images]
        inputs = [normalise(x, spec.mean, spec.std) for x in images]
        with self.precision.autocast():
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
        self.precision.backward(loss.total if share == 1.0 else loss.total * share)
        figures: dict[str, Tensor | float] = {
            "loss": loss.total.detach(),
            self.task.loss_name: loss.classification.detach(),
            "ensemble": loss.ensemble.detach(),
            "distillation": loss.distillation.detach(),
        }
        if self.teacher:
            figures["teacher"] = loss.teacher.detach()
        named = {
            "ensemble": loss.ensemble_logits,
            **dict(zip(self._settings, outputs, strict=True)),
        }
        for name, output in named.items():
            of_batch = self.task.step_figures(output.detach(), labels)
            figures |= {f"{figure}_{name}": number for figure, number in of_batch.items()}
        return figures
