"""Which data set a run was trained on: where it is, and a fingerprint of its names."""

from __future__ import annotations

from rsquant.config import RunConfig
from rsquant.data.sources import GENERATED
from rsquant.data.split import Source


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
    return f"{source.place} does not have the class and image names of the run's data set"


def moved_note(config: RunConfig, source: Source) -> str:
    """What to tell of a run of an older version, whose set is where it is from this folder."""
    recorded = config.data
    if recorded.fingerprint or source.place == recorded.source:
        return ""
    return (
        f"data: {source.place}; the run is of an older version, which noted '{recorded.source}' "
        "alone, so whether it is the same set cannot be checked"
    )
