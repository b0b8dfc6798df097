"""The recipe for a set that is too small for the published one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rsquant.config import PAPER_RESOLUTIONS, RunConfig
from rsquant.data.sources import GENERATED
from rsquant.data.split import Source
from rsquant.device import pick_device
from rsquant.processors import processors
from rsquant.train.check import check
from rsquant.train.configuration import compose
from rsquant.train.training import open_data

# The published recipes are for 1.28 million images.
SMALL = 100_000
# A GPU counts as so many cores.
GPU_CORES = 64
# What one core may be given: images times epochs. ResNet-18 at the small sizes: about an hour.
IMAGES_PER_CORE = 15_000


def configure(
    file: Path | None, changes: dict[str, dict[str, Any]]
) -> tuple[RunConfig, list[str], Source | None]:
    """The configuration a recipe file and flags mean, for the data set there is.

    A small set gets `small_recipe`, unless a file says what to do; flags win over either.

    Returns:
        See `configuration.compose`; and the data set, if it had to be opened.
    Raises:
        ConfigError, DataError: a wrong setting, or no data set.
    """
    config, lines = compose(file, changes)
    if config.data.source == GENERATED:
        return config, lines, None
    check(config)
    source = open_data(config)
    if file is None and len(source.train) < SMALL:
        gpu = pick_device(config.train.device).type != "cpu"
        given = changes.get("train", {}).get("batch")
        threads = config.train.threads or processors()
        base, line = small_recipe(config, len(source.train), threads, gpu, given)
        config, lines = compose(file, changes, (base, line))
    return config, lines, source


def small_recipe(
    config: RunConfig, images: int, cores: int, gpu: bool = False, batch: int | None = None
) -> tuple[RunConfig, str]:
    """Sizes, epochs, batch and rate for a small set, and a line that says them and why.

    Args:
        config: with the network that is meant.
        images: to train on.
        cores: that train.
        gpu: one trains in their place.
        batch: what the user gave; the rate follows it.
    """
    power = GPU_CORES if gpu else cores
    epochs = min(120, max(15, round(IMAGES_PER_CORE * power / images)))
    if batch is None:
        batch = 8
        while batch < 256 and 2 * batch * 20 <= images:  # 20 steps an epoch, if there are as many
            batch *= 2
    sizes = _sizes(config.model.arch, power)
    model = dataclasses.replace(config.model, resolutions=sizes)
    # The paper's rate is too high for few images a step.
    rate = config.train.lr if batch >= 64 else config.train.lr * batch / 64
    train = dataclasses.replace(
        config.train,
        epochs=epochs,
        batch=batch,
        lr=float(f"{rate:.2g}"),
        schedule="cosine",
        weight_decay=5e-4,
        warmup=epochs / 20,
    )
    data = dataclasses.replace(config.data, area=(0.25, 1.0))
    by = "a GPU" if gpu else f"{cores} cores" if cores > 1 else "1 core"
    line = (
        f"recipe for small sets, from {images} training images and {by} (the paper's is for 1.28 "
        f"million): {epochs} epochs, batch {batch}, lr {train.lr:g} cosine, area 0.25 to 1, "
        f"resolutions {', '.join(map(str, sizes))}; your own settings override it"
    )
    return RunConfig(model, data, train), line


def _sizes(arch: str, power: int) -> tuple[int, ...]:
    if power >= GPU_CORES:
        return PAPER_RESOLUTIONS
    if not arch.startswith("resnet"):  # many networks need 75 pixels, or multiples of 32
        return (128, 96)
    return (128, 112, 96, 80, 64) if power > 8 else (96, 80, 64, 48, 32)
