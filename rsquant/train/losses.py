"""MRED: multi-resolution ensemble distillation; and a teacher beside it.

Source: RS-Nets (arXiv 2007.09558), section 3.3, equations 2 and 5 to 10, and table 5. A float
teacher of low-bit networks, by divergence alone: N2UQ (arXiv 2111.14826), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rsquant.choices import DISTILLATIONS
from rsquant.errors import ConfigError
from rsquant.tasks import Task
from rsquant.tasks.classification import CLASSIFICATION


class MREDLoss(NamedTuple):
    """Scalars; `total` is their sum, with weights: see `mred`.

    `classification` is the task's own loss, summed over the settings. `ensemble_logits` is the
    output of the ensemble, (N, classes, ...), detached. `teacher` is 0 where there is none.
    """

    total: Tensor
    classification: Tensor
    ensemble: Tensor
    distillation: Tensor
    ensemble_logits: Tensor
    teacher: Tensor


def ensemble_logits(logits: Sequence[Tensor], alpha: Tensor) -> Tensor:
    """z_0 = sum_s softmax(alpha)_s z_s. Gradient: to alpha alone, the logits are detached.

    Args:
        logits: S tensors of one shape.
        alpha: (S,) scores before the softmax.
    """
    stacked = torch.stack([z.detach() for z in logits])
    return torch.tensordot(torch.softmax(alpha, 0).to(stacked.dtype), stacked, dims=1)


def distillation_paths(resolutions: int, variant: str) -> list[tuple[int, int]]:
    """(teacher, student) pairs of a variant; 0 is the ensemble, 1 the largest resolution.

    full: every earlier prediction teaches every later one. vanilla: the ensemble alone teaches.
    top-down: full without the ensemble. from-largest: the largest resolution alone teaches.
    none: parallel training.
    """
    sizes = range(1, resolutions + 1)
    if variant == "full":
        return [(t, s) for t in range(resolutions) for s in sizes if s > t]
    if variant == "vanilla":
        return [(0, s) for s in sizes]
    if variant == "top-down":
        return [(t, s) for t in range(1, resolutions) for s in sizes if s > t]
    if variant == "from-largest":
        return [(1, s) for s in sizes if s > 1]
    if variant == "none":
        return []
    raise ConfigError(f"distillation: must be one of {', '.join(DISTILLATIONS)}, got '{variant}'")


def mred(
    logits: Sequence[Tensor],
    target: Tensor,
    alpha: Tensor,
    variant: str = "full",
    task: Task = CLASSIFICATION,
    teacher: Sequence[Tensor] = (),
    labels: float = 1.0,
) -> MREDLoss:
    """The RS-Net loss: of each output, of the ensemble's own, distillation, and of a teacher.

        total = labels (sum_s L(z_s, y) + L(z_0, y)) + distillation + teacher
        teacher = sum_s D(t_s, z_s) + D(t_1, z_0)

    z_s is the output of setting s of 1 .. S, z_0 that of the ensemble, t_s what the teacher gives
    for the images of setting s, L the task's loss and D its divergence. Each term is a mean over
    the batch and in nats: a setting's divergence from a teacher weighs as much as its loss by
    labels of weight 1, and as much as its share of the distillation.

    The paper scales the full version by 2 / (S + 1), which makes its S (S + 1) / 2 paths weigh as
    much as the S classification terms. The same is done for the variants of table 5: paths are
    scaled by S / number of paths.

    Args:
        logits: S outputs of the task, from the largest resolution to the smallest; of
            classification (N, classes).
        target: labels of a batch; of classification (N,) int64.
        alpha: (S,) scores before the softmax; moved by the ensemble's own terms alone.
        variant: see `distillation_paths`.
        task: whose loss and divergence are meant.
        teacher: S outputs like `logits` of another network, or none.
        labels: their weight, 0 to 1; 0 with variant "none" is training by the teacher alone.
    """
    # 16 bits, of a network cast to them or under autocast, are too few for sums of exponentials.
    wide = [z if z.dtype == torch.float64 else z.float() for z in logits]
    logits = task.together_with(wide, target)
    classification = torch.stack([task.loss(z, target) for z in logits]).sum()
    blended = ensemble_logits(logits, alpha)
    ensemble = task.loss(blended, target)
    predictions = [blended.detach(), *logits]
    paths = distillation_paths(len(logits), variant)
    distillation = classification.new_zeros(())
    for one, student in paths:
        distillation = distillation + task.divergence(predictions[one], predictions[student])
    if paths:
        distillation = distillation * (len(logits) / len(paths))
    by_labels = classification + ensemble
    total = (by_labels if labels == 1 else labels * by_labels) + distillation
    taught = classification.new_zeros(())
    if teacher:
        targets = task.together_with([t.detach().to(logits[0].dtype) for t in teacher], target)
        for of_teacher, z in zip(targets, logits, strict=True):
            taught = taught + task.divergence(of_teacher, z)
        taught = taught + task.divergence(targets[0], blended)
        total = total + taught
    return MREDLoss(total, classification, ensemble, distillation, blended.detach(), taught)
