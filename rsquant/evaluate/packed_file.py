"""Evaluate a packed file on a data set, as flat rows: what a device computes, not PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant import config as configs
from rsquant import runs, runtime
from rsquant.data.loader import UnreadableLog, evaluation_batches
from rsquant.data.split import Source
from rsquant.errors import ConfigError, DataError, ModelError
from rsquant.evaluate.masks import check_folder, written_to
from rsquant.evaluate.predictions import Predictions
from rsquant.evaluate.report import (
    EvaluationProgress,
    Report,
    check_details,
    chosen_variants,
    closing_notes,
    source_of,
    which_norms,
)
from rsquant.kernels import backends
from rsquant.packed.plan import Plan
from rsquant.packed.program import madds
from rsquant.runs import Checkpoint
from rsquant.settings import bits_names
from rsquant.tasks import Task, by_name
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.tasks.segmentation import SEGMENTATION


def evaluate_packed(
    path: Path,
    sizes: Sequence[int] | None,
    *,
    data: str | None,
    val_images: int | None,
    batch: int,
    workers: int,
    device: str,
    threads: int | None,
    progress: EvaluationProgress,
    predictions: bool = False,
    bits: Sequence[str] | None = None,
    widths: Sequence[float] | None = None,
    save: Path | None = None,
    exist_ok: bool = False,
    details: Sequence[str] = (),
) -> Report:
    """Measure a packed file at each size, as `evaluate.report.evaluate_checkpoint` a checkpoint.

    Args:
        path: a .rsq file. The data set is that of the run in whose folder it is, or `data`.
        threads, device: of `rsquant.runtime.load`.
    Raises:
        ConfigError: no data set is known. ModelError: the data set has other classes.
    """
    check_folder(save, exist_ok)
    device = backends.pick_device(device)
    session = runtime.load(path, threads, device=device)
    plan = session.packed.plan
    checkpoint = runs.around(path) or Checkpoint(path, None)
    task = _task(plan, checkpoint)
    if data is None and checkpoint.run is None:
        raise ConfigError(
            f"{path}: is not in a run folder, so its data set is not known; name it with `data=DIR`"
        )
    source = source_of(checkpoint, data, val_images, task)
    if source.note:
        progress.echo(source.note)
    _check_classes(path, plan, source)
    check_details(task, source, details)
    known = session.packed.variants
    measured = chosen_variants(path, known, session.bits[0], bits, widths)
    sizes = tuple(dict.fromkeys(sizes or session.resolutions))
    told = Predictions(task, source.val, source.classes) if predictions else None
    rows: list[dict[str, Any]] = []
    unreadable = UnreadableLog()
    with written_to(save, task, source.val) as masks:
        listeners = [*([] if told is None else [told.add]), *(one.add for one in masks)]
        for variant in measured:
            own = session.at(bits=variant.bits, width=variant.width)
            metrics = {size: task.metric() for size in sizes}
            progress.start("evaluate", 0, 0, 0, len(source.val))
            for cut in evaluation_batches(source.val, sizes, batch, workers, task):
                unreadable.add(cut.unreadable, progress.echo)
                unreadable.check(len(source.val))
                if not len(cut.labels):
                    continue
                for size, images in zip(sizes, cut.images, strict=True):
                    outputs: Tensor = torch.from_numpy(own(images.numpy()))
                    metrics[size].add(outputs, cut.labels)
                    for listener in listeners if variant == measured[0] else ():
                        listener(size, outputs, cut.labels, cut.indices)
                progress.advance(len(cut.labels))
            if not metrics[sizes[0]].samples:
                raise DataError(
                    f"evaluate: none of the {len(source.val)} images is readable; name another "
                    "data set with `data=DIR`"
                )
            rows += [
                {
                    "resolution": size,
                    **({"width": variant.width} if len(session.widths) > 1 else {}),
                    **({"bits": bits_names([own.bits[0]])} if len(session.bits) > 1 else {}),
                    **metric.figures(),
                    "madds": madds(own.program(size)),
                    "samples": metric.samples,
                    "batchnorms": which_norms(session.resolutions, size),
                    **metric.details(source.classes),
                }
                for size, metric in metrics.items()
            ]
    for line in closing_notes(unreadable, metrics[sizes[0]], measured, bool(listeners)):
        progress.echo(line)
    return Report(task, rows, source.classes, None if told is None else told.rows())


def _task(plan: Plan, checkpoint: Checkpoint) -> Task:
    """The task of the file's run; else what its logits look like."""
    if checkpoint.run is not None:
        return by_name(configs.load_yaml(checkpoint.run / runs.CONFIG).model.task)
    return SEGMENTATION if plan.gives_maps else CLASSIFICATION


def _check_classes(path: Path, plan: Plan, source: Source) -> None:
    own = plan.network.classes
    if (own and own != source.classes) or plan.network.num_classes != len(source.classes):
        first = f" ({own[0]}, ...)" if own else ""
        raise ModelError(
            f"{path}: has {plan.network.num_classes} classes{first}, {source.name} has "
            f"{len(source.classes)} ({source.classes[0]}, ...); use one with the same classes"
        )
