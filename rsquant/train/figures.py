"""What a run tells of an epoch: the row of metrics.csv, and a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rsquant.evaluate.accuracy import Evaluation
from rsquant.tasks import Metric, Task

# Of an epoch so far: its images, its seconds, and figures times images.
Sums = dict[str, Any]
# Before the name of a setting: the share of the images that it was trained on, where steps train
# some settings each.
SHARE = "share_"


def add_step(sums: Sums, figures: Mapping[str, float], images: int) -> None:
    """Add what a step gave, means over its images, to the sums of an epoch."""
    sums["images"] += images
    for name, figure in figures.items():
        sums[name] = sums.get(name, 0.0) + figure * images


def mean(sums: Sums, name: str) -> float:
    """Of an epoch so far."""
    value: float = sums.get(name, 0.0) / max(1, sums["images"])
    for other, images in sums.items():
        # Of those images alone on which its setting was trained.
        if other.startswith(SHARE) and name.endswith(f"_{other.removeprefix(SHARE)}"):
            return value if name == other else sums[name] / max(1, images)
    return value


def epoch_row(
    epoch: int,
    rate: float,
    sums: Sums,
    validation: Evaluation,
    settings: Sequence[str],
    scores: Sequence[float],
) -> dict[str, Any]:
    """The row of an epoch, by column.

    Args:
        settings: names of the rows of BatchNorm tables.
        scores: of the ensemble, for each of them, adding up to 1.
    """
    row: dict[str, Any] = {"epoch": epoch, "lr": rate}
    row["train_seconds"] = sums["seconds"]
    row["train_images_per_s"] = sums["images"] / max(1e-9, sums["seconds"])
    for name in sums:
        if name not in ("images", "seconds"):
            row[f"train_{name}"] = mean(sums, name)
    for setting, metric in zip(settings, validation.paths, strict=True):
        row |= {f"val_{name}_{setting}": value for name, value in _told(validation.task, metric)}
    if validation.ensemble is not None:
        figures = validation.ensemble.figures()
        for name in (validation.task.main.name, "loss"):
            row[f"val_{name}_ensemble"] = figures[name]
    for setting, score in zip(settings, scores, strict=True):
        row[f"alpha_{setting}"] = score
    return row


def summary(row: Mapping[str, Any], task: Task, settings: Sequence[str]) -> str:
    """The row of an epoch in one line."""
    main = task.main
    figures = "  ".join(f"{name}: {row[f'val_{main.name}_{name}']:.1f}" for name in settings)
    scores = " ".join(f"{row[f'alpha_{name}']:.2f}" for name in settings)
    return (
        f"epoch {row['epoch']}  loss {row['train_loss']:.3f}  {main.heading}  {figures}  "
        f"ensemble: {row[f'val_{main.name}_ensemble']:.1f}  alpha {scores}  "
        f"({row['train_images_per_s']:.0f} images/s)"
    )


def _told(task: Task, metric: Metric) -> list[tuple[str, float]]:
    """The task's own figures; a metric may have more (each class's), which no column has."""
    figures = metric.figures()
    return [(figure.name, figures[figure.name]) for figure in task.figures]
