"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

from rsquant import runs
from rsquant.atomic import replacing
from rsquant.config import load_run
from rsquant.tasks import DEFAULT, Task, by_name
from rsquant.train.metrics import column, read_metrics


def training_curves(run: Path) -> Path:
    """Draw the task's main figure by resolution, the loss and the ensemble's scores by epoch.

    Returns:
        The picture's path, `curves.png` in the run folder.
    """
    # matplotlib's figure without pyplot: no display, no global state.
    from matplotlib.figure import Figure

    rows, task = read_metrics(run), _task(run)
    main = task.main
    epochs = [int(r["epoch"]) for r in rows]
    sizes = [k.removeprefix("alpha_") for k in (rows[0] if rows else {}) if k.startswith("alpha_")]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    accuracy, loss, alpha = figure.subplots(1, 3)
    for index, size in enumerate(sizes):
        colour = f"C{index}"
        accuracy.plot(epochs, column(rows, f"val_{main.name}_{size}"), colour, label=size)
        alpha.plot(epochs, column(rows, f"alpha_{size}"), colour, label=size)
    if rows:
        best = column(rows, f"val_{main.name}_ensemble")
        accuracy.plot(epochs, best, "k:", label="ensemble")
        for name in (task.loss_name, "distillation", "ensemble"):
            loss.plot(epochs, column(rows, f"train_{name}"), label=name)
    unit = f", {main.unit}" if main.unit else ""
    titles = (f"validation {main.title}{unit}", "training loss", "ensemble scores alpha")
    for axes, title in zip((accuracy, loss, alpha), titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path = run / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def _task(run: Path) -> Task:
    """The task of a run; of one that lost its configuration, the usual one."""
    config = run / runs.CONFIG
    return by_name(load_run(config).model.task if config.is_file() else DEFAULT)
