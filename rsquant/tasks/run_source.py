"""The data set of a run, as its task opens it."""

from __future__ import annotations

from rsquant.config import RunConfig
from rsquant.data.split import Source
from rsquant.tasks.registry import by_name


def open_run_source(
    config: RunConfig,
    data: str | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
) -> Source:
    """Open the data set of a run.

    Args:
        config: of the run.
        data: where the set is now; None: where it was.
        train_images, val_images: in place of the run's own limits.
    Raises:
        ConfigError: nobody registered its task.
        DataError: there is no data set there.
    """
    section = config.data
    return by_name(config.model.task).open_source(
        section.source if data is None else data,
        config.train.seed,
        section.train_images if train_images is None else train_images,
        section.val_images if val_images is None else val_images,
    )
