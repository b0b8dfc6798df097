"""One step of training: a batch at every setting, one update of the weights they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rsquant.config import TrainConfig
from rsquant.data.transforms import normalise
from rsquant.nn.parts import parts_of_a_batch
from rsquant.nn.recompute import blocks, recomputed
from rsquant.nn.shared_norm import copy_first_row
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.settings import row_names
from rsquant.tasks import Task, by_name
from rsquant.train.data_parallel import average_statistics, data_parallel, statistics_of
from rsquant.train.figures import SHARE
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
        group: the processes that each do a part of every batch.
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
        group: ProcessGroup = ALONE,
    ) -> None:
        self.network, self.alpha, self.optimizer = network, alpha, optimizer
        self.train, self.device, self.teacher = train, device, teacher
        self.task = by_name(network.spec.task) if task is None else task
        self._settings = row_names(network.settings)
        self.precision = MixedPrecision(train.amp, device)
        self._recomputed = blocks(network.body) if train.recompute else []
        self.group = group
        # Gradients of the parts of a batch are averaged once, when all are there.
        self._averages = group.world > 1 and train.accumulate > 1
        self._forward_all = (
            network.forward_all if self._averages else data_parallel(network, device, group)
        )

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Tensor,
        rate: float,
        of_batch: float = 1.0,
        rows: Sequence[int] | None = None,
    ) -> dict[str, Tensor | float]:
        """Do one step. Nothing in it waits for the device.

        Of several processes each gives its part of the batch; afterwards all have the same bits.

        Args:
            images: of each size, the largest first: (N, 3, R, R) uint8.
            labels: as the task has them.
            rate: the learning rate.
            of_batch: the share of its images that is here.
            rows: of the network's settings, ascending: those to train; None: all.
        Returns:
            What it gave, means over the whole batch: the loss and its parts, and the task's
            figures of the ensemble and of every setting. Scalars, tensors where on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        # All processes have as many parts: statistics of each are those of all processes.
        fewest = min(self.group.gather(len(labels))) if self._averages else len(labels)
        # A BatchNorm needs two images.
        parts = max(1, min(self.train.accumulate, fewest // 2))
        # Gradients become means over the processes, whose shares may differ in size.
        share = of_batch * self.group.world
        with recomputed(self._recomputed):
            if parts == 1:
                figures = self._part(images, labels, share, rows)
            else:
                figures = self._parts(images, labels, parts, share, rows)
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        by_hand = moved if self._averages else [self.alpha]
        self.group.average([p.grad for p in by_hand if p.grad is not None])
        if self.train.clip_norm is not None:
            self.precision.unscale(self.optimizer)
            torch.nn.utils.clip_grad_norm_(moved, self.train.clip_norm)
        self.precision.update(self.optimizer)
        average_statistics(self.network, self.group)
        if self.train.norms == "shared":
            copy_first_row(self.network)
        return self._of_all(figures, of_batch)

    def _of_all(
        self, figures: dict[str, Tensor | float], of_batch: float
    ) -> dict[str, Tensor | float]:
        """Means over the batch of all processes."""
        if self.group.world == 1:
            return figures
        values = [torch.as_tensor(v, dtype=torch.float64) for v in figures.values()]
        means = self.group.mean(torch.stack([v.to(self.device) for v in values]), of_batch)
        return dict(zip(figures, means.unbind(), strict=True))

    def _parts(
        self,
        images: Sequence[Tensor],
        labels: Tensor,
        parts: int,
        share: float,
        rows: Sequence[int] | None,
    ) -> dict[str, Tensor | float]:
        sums: dict[str, Tensor | float] = {}
        pieces = zip(
            *(x.tensor_split(parts) for x in images), labels.tensor_split(parts), strict=True
        )
        with statistics_of(self.group), parts_of_a_batch(self.network, rows) as gathering:
            for *some, their_labels in pieces:
                gathering.begin_part()
                part = len(their_labels) / len(labels)
                for name, figure in self._part(some, their_labels, share * part, rows).items():
                    sums[name] = sums.get(name, 0.0) + figure * part
        return sums

    def _part(
        self, images: Sequence[Tensor], labels: Tensor, share: float, rows: Sequence[int] | None
    ) -> dict[str, Tensor | float]:
        """Forward and backward of this share of the batch; gradients add up."""
        labels = labels.to(self.device, non_blocking=True)
        spec = self.network.spec
        images = [x.to(self.device, non_blocking=True) for x in images]
        inputs = [normalise(x, spec.mean, spec.std) for x in images]
        with self.precision.autocast():
            taught = self.teacher(self._of_rows(images, rows)) if self.teacher else []
            with statistics_of(self.group):
                outputs = [z.float() for z in self._forward_all(inputs, rows)]
        loss = mred(
            outputs,
            labels,
            self.alpha if rows is None else self.alpha[list(rows)],
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
        names = self._settings if rows is None else [self._settings[row] for row in rows]
        if rows is not None:
            figures |= {f"{SHARE}{name}": 1.0 for name in names}
        named = {"ensemble": loss.ensemble_logits, **dict(zip(names, outputs, strict=True))}
        for name, output in named.items():
            of_batch = self.task.step_figures(output.detach(), labels)
            figures |= {f"{figure}_{name}": number for figure, number in of_batch.items()}
        return figures

    def _of_rows(self, images: Sequence[Tensor], rows: Sequence[int] | None) -> list[Tensor]:
        """The images of each setting that runs."""
        every = range(len(self.network.settings)) if rows is None else rows
        return [images[self.network.images_of(row)] for row in every]
