"""Evaluate a checkpoint on its run's data, as flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rsquant import config as configs
from rsquant import runs
from rsquant.config import RunConfig
from rsquant.data.identity import changed, moved_note
from rsquant.data.loader import UnreadableLog
from rsquant.data.split import Source
from rsquant.device import pick_device
from rsquant.errors import ConfigError, DataError, ModelError
from rsquant.evaluate.accuracy import evaluate
from rsquant.evaluate.complexity import madds
from rsquant.evaluate.masks import check_folder, written_to
from rsquant.evaluate.predictions import Predictions
from rsquant.models.checkpoint import load
from rsquant.nn.finite import first_bad
from rsquant.nn.sizes import check_smallest
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.runs import Checkpoint
from rsquant.settings import Bits, Variant, bits_names, checked_bits, told
from rsquant.tasks import Metric, Task, by_name
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.tasks.run_source import open_run_source


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        task: of the network; its figures are in the rows.
        rows: one per size, and of each width and pair of bits if the network has several (width,
            0.5; bits, "4/4"): resolution, the figures (top1, top5, loss), madds, samples,
            batchnorms; and what the task tells beyond figures (by_class, confusion).
        classes: their names.
        predictions: a row for each image and size, where they were asked for.
    """

    task: Task
    rows: list[dict[str, Any]]
    classes: tuple[str, ...] = ()
    predictions: list[dict[str, Any]] | None = None


class EvaluationProgress(Protocol):
    """Shows how far an evaluation has come."""

    def start(self, phase: str, epoch: int, epochs: int, done: int, total: int) -> None: ...
    def advance(self, images: int, note: str = "") -> None: ...
    def echo(self, line: str) -> None: ...


def source_of(
    checkpoint: Checkpoint,
    data: str | None = None,
    val_images: int | None = None,
    task: Task = CLASSIFICATION,
) -> Source:
    """The data source of a checkpoint's run, or another one, which the task opens.

    Raises:
        ConfigError: the checkpoint lies in no run folder and no source was named.
        DataError: there is no data set, or another one in the place of the run's.
    """
    if data is not None:
        return task.open_source(data, val_images=val_images)
    if checkpoint.run is None:
        raise ConfigError(
            f"{checkpoint.path}: is not in a run folder, so its data set is not known; "
            "name it with `data=DIR`"
        )
    config: RunConfig = configs.load_yaml(checkpoint.run / runs.CONFIG)
    source = open_run_source(config, val_images=val_images)
    if difference := changed(config, source):
        raise DataError(
            f"data: {difference}; give its folder with `data=DIR`, or evaluate on the present "
            f"images with `data={source.place!r}`"
        )
    return replace(source, note=moved_note(config, source) or source.note)


def check_classes(network: SwitchableNetwork, source: Source, checkpoint: Checkpoint) -> None:
    """Raise ModelError unless the network was trained on the source's classes."""
    trained = network.spec.classes
    if trained and trained != source.classes:
        raise ModelError(
            f"{checkpoint.path}: was trained on {len(trained)} classes ({trained[0]}, ...), "
            f"{source.name} has {len(source.classes)} ({source.classes[0]}, ...); "
            "use a data set with the same classes"
        )
    if network.spec.num_classes != len(source.classes):
        raise ModelError(
            f"{checkpoint.path}: has {network.spec.num_classes} output classes but "
            f"{source.name} has {len(source.classes)}; use a data set with as many"
        )


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    sizes: Sequence[int] | None,
    *,
    data: str | None,
    val_images: int | None,
    batch: int,
    workers: int,
    device: str,
    progress: EvaluationProgress,
    predictions: bool = False,
    bits: Sequence[str] | None = None,
    widths: Sequence[float] | None = None,
    save: Path | None = None,
    exist_ok: bool = False,
    details: Sequence[str] = (),
) -> Report:
    """Measure a checkpoint at each size.

    Args:
        checkpoint: from `runs.resolve`.
        sizes: in pixels; None means the trained ones.
        data, val_images: another source than the run's, or fewer images.
        batch, workers, device: as in training.
        predictions: keep what the network says of each image, at the costliest setting measured.
        bits: settings to measure, "4/4"; None: all that the network has.
        widths: settings to measure; None: all that the network has.
        save: folder for pictures of what it says of each pixel, at the costliest setting measured,
            see `masks`; None: nowhere.
        exist_ok: that folder may have files.
        details: what the task must tell beyond figures: by_class, confusion.
    """
    check_folder(save, exist_ok)
    network = load(checkpoint.path)
    if bad := first_bad(network.state_dict().items()):
        raise ModelError(
            f"{checkpoint.path}: {bad}; its predictions are meaningless, train it again"
        )
    source = source_of(checkpoint, data, val_images, by_name(network.spec.task))
    if source.note:
        progress.echo(source.note)
    check_classes(network, source, checkpoint)
    own = network.spec.wbits, network.spec.abits
    measured = chosen_variants(checkpoint.path, network.variants, own, bits, widths)
    sizes = tuple(sizes or network.resolutions)
    check_smallest(sizes, network.stride, network.spec.arch)
    target = pick_device(device)
    network.to(target)
    task = by_name(network.spec.task)
    check_details(task, source, details)
    said = Predictions(task, source.val, source.classes) if predictions else None
    rows: list[dict[str, Any]] = []
    unreadable = UnreadableLog()
    with written_to(save, task, source.val) as masks:
        listeners = [*([] if said is None else [said.add]), *(one.add for one in masks)]

        def each(size: int, outputs: Tensor, labels: Tensor, indices: Tensor) -> None:
            for listener in listeners:
                listener(size, outputs, labels, indices)

        for variant in measured:
            progress.start("evaluate", 0, 0, 0, len(source.val))
            result = evaluate(
                network,
                source.val,
                sizes,
                batch=batch,
                workers=workers,
                device=target,
                unreadable=unreadable,
                log=progress.echo,
                tick=progress.advance,
                each=each if listeners and variant == measured[0] else None,
                variant=variant,
            )
            rows += [
                {
                    "resolution": size,
                    **network.spec.columns(variant),
                    **metric.figures(),
                    "madds": madds(network, size, variant),
                    "samples": metric.samples,
                    "batchnorms": which_norms(network.resolutions, size),
                    **metric.details(source.classes),
                }
                for size, metric in result.sizes.items()
            ]
    for line in closing_notes(unreadable, result.sizes[sizes[0]], measured, bool(listeners)):
        progress.echo(line)
    network.cpu()
    return Report(task, rows, source.classes, None if said is None else said.rows())


def closing_notes(
    unreadable: UnreadableLog, metric: Metric, measured: Sequence[Variant], single: bool
) -> Iterator[str]:
    """What figures alone do not tell.

    Args:
        metric: of any size.
        measured: widths and bits, the costliest first.
        single: whether what is said of each image is kept, which is that of the first alone.
    """
    if unreadable.count:
        yield f"{unreadable.count} unreadable images were skipped"
    if metric.note:
        yield metric.note
    if single and len(measured) > 1:
        yield (
            f"what is said of each image is that of {told(measured[0])} alone; measure another "
            "setting alone for its own"
        )


def check_details(task: Task, source: Source, wanted: Sequence[str]) -> None:
    """Raise ConfigError for details that a task does not have of these classes, before the work.

    Args:
        wanted: names of `Metric.details`.
    """
    classes = len(source.classes)
    if "by_class" in wanted and task.class_figure is None:
        raise ConfigError("by_class: this task has no figure of each class; leave it out")
    if "confusion" in wanted and task.most_confused and classes > task.most_confused:
        raise ConfigError(
            f"confusion: is of at most {task.most_confused} classes, {source.name} has {classes}; "
            "leave it out"
        )


def chosen_variants(
    path: Path,
    known: Sequence[Variant],
    own: Bits,
    bits: Sequence[str] | None,
    widths: Sequence[float] | None,
) -> list[Variant]:
    """The widths and bits to measure, the costliest first.

    Args:
        path: of the file, for messages.
        known: what it has.
        own: bits of a network that has no several.
        bits, widths: those asked for; None: all.
    Raises:
        ConfigError: one that it has not.
    """
    pairs = tuple(dict.fromkeys(one.bits or own for one in known))
    asked = pairs if bits is None else [checked_bits([text])[0] for text in bits]
    for pair in asked:
        if pair not in pairs:
            raise ConfigError(
                f"bits: {path} has no setting {bits_names([pair])}; it has {bits_names(pairs)}"
            )
    shares = tuple(dict.fromkeys(one.width for one in known))
    for width in widths or ():
        if width not in shares:
            raise ConfigError(
                f"widths: {path} has no width {width:g}; it has "
                f"{', '.join(f'{share:g}' for share in shares)}"
            )
    wanted = widths or shares
    return [one for one in known if one.width in wanted and (one.bits or own) in asked]


def which_norms(trained: Sequence[int], size: int) -> str:
    """Whose BatchNorms a size uses."""
    if size in trained:
        return "own"
    nearest = max(trained) if size > max(trained) else min(trained)
    return "interpolated" if min(trained) < size < max(trained) else f"of {nearest}"
