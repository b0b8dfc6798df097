"""Tasks by name."""

from __future__ import annotations

import re

from rsquant.errors import ConfigError
from rsquant.tasks.base import Task
from rsquant.tasks.classification import CLASSIFICATION
from rsquant.tasks.segmentation import SEGMENTATION
from rsquant.text import did_you_mean

DEFAULT = "classification"
# Columns of a training's own, see `train.loop`.
_OTHER_LOSSES = ("loss", "ensemble", "distillation")

_TASKS: dict[str, Task] = {}


def register(name: str, task: Task) -> None:
    """Give a task a name, for `rsquant.create`, `convert` and `--task`.

    Args:
        name: of letters, digits, "-" and "_"; a name may be registered again.
    Raises:
        ConfigError: a name that cannot be typed, what is no task, or one whose figures cannot be
            told apart or do not tell a loss.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise ConfigError(f"task: a name has letters, digits, - and _, got {name!r:.60}")
    if not isinstance(task, Task):
        raise ConfigError(f"task {name}: must be an object of a subclass of Task, got {task!r:.60}")
    figures = [figure.name for figure in task.figures]
    if "loss" not in figures[1:] or len(set(figures)) < len(figures):
        raise ConfigError(
            f"task {name}: its figures must have different names, one of them 'loss' and not the "
            f"first, got {', '.join(figures) or 'none'}"
        )
    for column in (*figures, task.loss_name):
        if not re.fullmatch(r"\w{1,40}", column, re.ASCII) or task.loss_name in _OTHER_LOSSES:
            raise ConfigError(
                f"task {name}: names of columns have letters, digits and _, and loss_name is none "
                f"of {', '.join(_OTHER_LOSSES)}, got {column!r:.60}"
            )
    _TASKS[name] = task


def names() -> tuple[str, ...]:
    """All registered names, in the order of their registration."""
    return tuple(_TASKS)


def by_name(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: nobody registered it; the nearest name is given.
    """
    if name not in _TASKS:
        hint = did_you_mean(name, _TASKS)
        raise ConfigError(
            f"task: unknown name '{name!s:.60}'; {hint}known: {', '.join(_TASKS)}; "
            "rsquant.tasks.register adds one"
        )
    return _TASKS[name]


register(DEFAULT, CLASSIFICATION)
register("segmentation", SEGMENTATION)
