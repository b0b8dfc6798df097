"""How long runs will take, from runs that there are or from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from rsquant import config as configs
from rsquant import runs
from rsquant.config import RunConfig
from rsquant.errors import RsquantError
from rsquant.evaluate.complexity import madds
from rsquant.models import create
from rsquant.models.resnet import LAYERS
from rsquant.models.stem import choose_stem
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.studies.planned import PlannedRun, existing, trained_sizes
from rsquant.train.metrics import as_numbers, read_metrics
from rsquant.train.sandwich import MOST

# Images of an epoch where the data set is not opened for it.
IMAGENET = 1_281_167
# Validation and decoding beside the steps.
OVERHEAD = 1.15
# What a timed step is of, so that it takes seconds whatever the network: the largest size of which
# two images have no more multiply-adds than this (else the smallest), and at most so many images.
TIMED_MADDS = 2e10
TIMED_IMAGES = 8

# All that a network's cost depends on beside its sizes.
_Structure = tuple[object, ...]


class Rate:
    """Seconds per multiply-add of training: forward, backward and update of one image.

    Taken from the finished epochs in a store, else from steps on random images.
    """

    def __init__(self, planned: Sequence[PlannedRun], store: Path) -> None:
        known = _images(planned)
        self.images = IMAGENET if known is None else known
        self._sizes: dict[_Structure, set[int]] = {}
        for run in planned:
            sizes = self._sizes.setdefault(_structure(run.config), set())
            sizes.update(trained_sizes(run.config))
        self._network: tuple[_Structure, SwitchableNetwork] | None = None
        self._madds: dict[tuple[_Structure, tuple[int, ...]], int] = {}
        spent = work = 0.0
        for folder in dict.fromkeys(existing(run, store) for run in planned):
            if not (folder / runs.CONFIG).is_file():
                continue
            config = configs.load_run(folder / runs.CONFIG)
            for row in map(as_numbers, read_metrics(folder)):
                took, speed = row.get("train_seconds"), row.get("train_images_per_s")
                if took and speed:
                    spent += took
                    work += took * speed * self.madds(config)
        if work:
            self.per_madd = spent / work
            self.note = "judged by the epochs that are done"
        else:
            network = self._of(planned[0].config)
            size, count = timed_step(network)
            self.per_madd = _timed(network, size, count)
            self.note = f"judged by a step of {count} random images of {size} pixels on one core"
        if known is None:
            self.note += f"; for {IMAGENET:,} images, as the data set cannot be opened"

    def madds(self, config: RunConfig) -> int:
        """Of one image at every setting that a step trains; of a sandwich, on average."""
        key = (_structure(config), trained_sizes(config))
        if key not in self._madds:
            self._madds[key] = round(_of_a_step(self._of(config), trained_sizes(config)))
        return self._madds[key]

    def _of(self, config: RunConfig) -> SwitchableNetwork:
        """A network of the configuration's structure, which takes seconds to make."""
        structure = _structure(config)
        if self._network is None or self._network[0] != structure:
            sizes = self._sizes.get(structure, set()) | {*trained_sizes(config)}
            self._network = structure, _network(config, sorted(sizes, reverse=True))
        return self._network[1]


def timed_step(network: SwitchableNetwork) -> tuple[int, int]:
    """The size in pixels and the number of images to time a step of, see `TIMED_MADDS`."""
    costs = {size: madds(network, size) for size in sorted(set(network.resolutions))}
    fitting = [size for size, cost in costs.items() if 2 * cost <= TIMED_MADDS]
    size = fitting[-1] if fitting else min(costs)
    return size, int(min(TIMED_IMAGES, max(2, TIMED_MADDS // costs[size])))


def _timed(network: SwitchableNetwork, size: int, count: int) -> float:
    """Seconds per multiply-add; of several widths and bits the costliest is timed."""
    threads = torch.get_num_threads()
    times = []
    network.train()
    try:
        torch.set_num_threads(1)
        for _ in range(2):
            # The time of this process alone: others may be busy.
            begun = time.process_time()
            network(torch.rand(count, 3, size, size)).square().mean().backward()
            times.append(time.process_time() - begun)
    finally:
        torch.set_num_threads(threads)
    return min(times) / (count * madds(network, size))


def _of_a_step(network: SwitchableNetwork, sizes: Sequence[int]) -> float:
    """Multiply-adds of a step's settings, for one image."""
    settings = [(size, variant) for size in sizes for variant in network.variants]
    costs = {
        (size, variant.width): madds(network, size, variant)
        for size, variant in {(s, v.width): (s, v) for s, v in settings}.values()
    }
    each = [costs[size, variant.width] for size, variant in settings]
    if not network.spec.several or len(each) <= MOST:
        return float(sum(each))
    return each[0] + each[-1] + (MOST - 2) * sum(each[1:-1]) / (len(each) - 2)


def seconds(config: RunConfig, rate: Rate) -> float:
    """About how long a run takes."""
    images = config.data.train_images or rate.images
    return rate.per_madd * rate.madds(config) * images * config.train.epochs * OVERHEAD


def _structure(config: RunConfig) -> _Structure:
    model = config.model
    bits = model.bits or (model.wbits, model.abits)
    return model.arch, model.width, _stem(config), model.block, bits, model.widths, model.task


def _stem(config: RunConfig) -> str:
    """Also of an individual network that of the switchable one."""
    model = config.model
    return choose_stem(model.stem, model.resolutions)[0] if model.arch in LAYERS else model.stem


def _network(config: RunConfig, sizes: Sequence[int]) -> SwitchableNetwork:
    model = config.model
    return create(
        model.arch,
        model.wbits,
        model.abits,
        sizes,
        num_classes=10,
        width=model.width,
        stem=_stem(config),
        block=model.block,
        task=model.task,
        bits=model.bits,
        widths=model.widths,
    )


def _images(planned: Sequence[PlannedRun]) -> int | None:
    """Training images of the data set; None where it cannot be opened."""
    from rsquant.train.training import open_data

    try:
        return len(open_data(planned[0].config).train)
    except (RsquantError, OSError):
        return None
