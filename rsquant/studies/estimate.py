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
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.studies.planned import PlannedRun, existing, trained_sizes
from rsquant.train.metrics import as_numbers, read_metrics
from rsquant.train.sandwich import MOST

# Images of an epoch where the data set is not opened for it.
IMAGENET = 1_281_167
# Validation and decoding beside the steps.
OVERHEAD = 1.15
_BATCH = 8


class Rate:
    """Seconds per multiply-add of training: forward, backward and update of one image.

    Taken from the finished epochs in a store, else from steps on random images.
    """

    def __init__(self, planned: Sequence[PlannedRun], store: Path) -> None:
        self.images = _images(planned, store)
        self._madds: dict[tuple[object, ...], int] = {}
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
            self.per_madd = self._timed(planned[0].config)
            self.note = f"judged by a step of {_BATCH} random images on one core"

    def madds(self, config: RunConfig) -> int:
        """Of one image at every setting that a step trains; of a sandwich, on average."""
        model = config.model
        bits = model.bits or (model.wbits, model.abits)
        sizes = trained_sizes(config)
        key = (model.arch, model.width, model.stem, model.block, bits, model.widths, sizes)
        if key not in self._madds:
            self._madds[key] = round(_of_a_step(_network(config)))
        return self._madds[key]

    def _timed(self, config: RunConfig) -> float:
        network = _network(config).train()
        threads = torch.get_num_threads()
        times = []
        try:
            torch.set_num_threads(1)
            for _ in range(2):
                # The time of this process alone: others may be busy.
                begun = time.process_time()
                loss = sum(
                    network(torch.rand(_BATCH, 3, size, size)).square().mean()
                    for size in dict.fromkeys(trained_sizes(config))
                )
                loss.backward()
                times.append(time.process_time() - begun)
        finally:
            torch.set_num_threads(threads)
        of_sizes = len(trained_sizes(config)) / len(set(trained_sizes(config)))
        # Of several widths and bits the costliest was timed.
        work = sum(madds(network, size) for size in trained_sizes(config))
        return min(times) * of_sizes / (_BATCH * work)


def _of_a_step(network: SwitchableNetwork) -> float:
    """Multiply-adds of a step's settings, for one image."""
    shapes = dict.fromkeys((one.size, one.width) for one in network.settings)
    costs = {(size, width): madds(network, size, network.variant(width)) for size, width in shapes}
    each = [costs[one.size, one.width] for one in network.settings]
    if not network.spec.several or len(each) <= MOST:
        return float(sum(each))
    return each[0] + each[-1] + (MOST - 2) * sum(each[1:-1]) / (len(each) - 2)


def seconds(config: RunConfig, rate: Rate) -> float:
    """About how long a run takes."""
    images = config.data.train_images or rate.images
    return rate.per_madd * rate.madds(config) * images * config.train.epochs * OVERHEAD


def _network(config: RunConfig) -> SwitchableNetwork:
    model = config.model
    stem = model.stem
    by_size = stem == "auto" and model.arch in LAYERS and max(model.resolutions) > 64
    return create(
        model.arch,
        model.wbits,
        model.abits,
        trained_sizes(config),
        num_classes=10,
        width=model.width,
        stem="imagenet" if by_size else stem,
        block=model.block,
        task=model.task,
        bits=model.bits,
        widths=model.widths,
    )


def _images(planned: Sequence[PlannedRun], store: Path) -> int:
    """Training images of the data set, from a run that has begun, or of the set itself."""
    from rsquant.train.training import open_data

    try:
        return len(open_data(planned[0].config).train)
    except (RsquantError, OSError):
        return IMAGENET
