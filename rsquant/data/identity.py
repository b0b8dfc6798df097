"""Which data set a run was trained on: where it is, and a fingerprint of its names."""

from __future__ import annotations

from rsquant.config import RunConfig
from rsquant.data.sources import GENERATED, open_source
from rsquant.data.split import Source


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
        DataError: there is no data set there.
    """
    section = config.data
    return open_source(
        section.source if data is None else data,
        config.train.seed,
        section.train_images if train_images is None else train_images,
        section.val_images if val_images is None else val_images,
    )


def changed(config: RunConfig, source: Source) -> str:
    """How a data set differs from the one of a run, for the user; "" if it is the same.

    Runs of before fingerprints were kept have nothing to compare with.
    """
    recorded = config.data
    if recorded.fingerprint:
        same = recorded.fingerprint == source.fingerprint
    else:
        same = recorded.source != GENERATED or source.place == GENERATED
    if same:
        return ""
    return f"{source.place} holds other names of classes or images than the set of the run did"


def moved_note(config: RunConfig, source: Source) -> str:
    """What to tell of a run of an older version, whose set is where it is from this folder."""
    recorded = config.data
    if recorded.fingerprint or source.place == recorded.source:
        return ""
    return (
        f"data: {source.place}; the run is of an older version, which noted '{recorded.source}' "
        "alone, so nothing says whether it is the same set"
    )
