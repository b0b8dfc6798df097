"""How a network begins: from what weights, with bases and statistics fitted to images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from rsquant import runs
from rsquant.config import RunConfig, TrainConfig
from rsquant.data.loader import Batch, Batches
from rsquant.data.transforms import normalise
from rsquant.models.published import is_published
from rsquant.models.start_from import Start, start_from
from rsquant.nn.calibrate import calibrate
from rsquant.nn.reestimate import reestimate
from rsquant.nn.switchable import SwitchableNetwork

# Batches that statistics are estimated from: so many images that a further batch changes little.
STATISTICS = 16


def begin(network: SwitchableNetwork, train: TrainConfig) -> Start | None:
    """Give a network the weights that its training starts from; None where they stay random.

    Raises:
        As `start_from`.
    """
    return None if train.init is None else start_from(network, train.init)


def recorded(config: RunConfig, network: SwitchableNetwork) -> RunConfig:
    """The configuration with what a network took over from its source, found from any folder."""
    init, model, spec = config.train.init, config.model, network.spec
    if init is None:
        return config
    if not is_published(init):
        found = Path(init) if Path(init).is_file() else runs.folder(init)[0]
        init = os.path.abspath(found)
    mean, std = (_three(values) for values in (spec.mean, spec.std))
    model = dataclasses.replace(model, mean=mean, std=std)
    train = dataclasses.replace(config.train, init=init)
    return dataclasses.replace(config, model=model, train=train)


def fit_to_images(
    network: SwitchableNetwork, begun: Start | None, batch: Batch, batches: Callable[[], Batches]
) -> Iterator[str]:
    """Start the bases of activations and, of a network with new weights, BatchNorm statistics.

    Args:
        begun: what weights it started from; None: from random ones.
        batch: what bases are fitted to.
        batches: what statistics are estimated from.
    Yields:
        Lines for the log, each when it is done.
    """
    if len(batch.labels) > 1 and network.spec.low_bit_activations:
        spec, device = network.spec, next(network.parameters()).device
        pixels = normalise(batch.images[0].to(device), spec.mean, spec.std)
        yield f"calibration {calibrate(network, pixels, begun.quantizers if begun else ())}"
    if begun is not None and begun.own_statistics:
        yield "calibration BatchNorm statistics stay those of the source"
    elif begun is not None:
        used = estimate_statistics(network, batches())
        yield f"calibration BatchNorm statistics of {used} images at every size"


def estimate_statistics(
    network: SwitchableNetwork, batches: Batches, count: int = STATISTICS
) -> int:
    """BatchNorm statistics at every setting from the first `count` batches of an epoch.

    Returns:
        The number of images.
    """
    images = 0
    spec, device = network.spec, next(network.parameters()).device

    def normalised() -> Iterator[list[Tensor]]:
        nonlocal images
        for number, batch in enumerate(batches):
            if number == count:
                return
            images += len(batch.labels)
            yield [normalise(x.to(device), spec.mean, spec.std) for x in batch.images]

    reestimate(network, normalised())
    return images


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
