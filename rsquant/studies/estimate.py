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
from rsquant.settings import checked_bits
from rsquant.studies.planned import PlannedRun, existing, trained_sizes
from rsquant.train.metrics import as_numbers, read_metrics

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
        """Of one image at every size that is trained."""
        model = config.model
        sizes = trained_sizes(config)
        key = (model.arch, model.width, model.stem, model.block, model.wbits, model.abits, sizes)
        if key not in self._madds:
            network = _network(config)
            self._madds[key] = sum(madds(network, size) for size in sizes)
        return self._madds[key]

    def _timed(self, config: RunConfig) -> float:
        network = _network(config).train()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        times = []
        for _ in range(2):
            # The time of this process alone: others may be busy.
            begun = time.process_time()
            loss = sum(
                network(torch.rand(_BATCH, 3, size, size)).square().mean()
                for size in dict.fromkeys(trained_sizes(config))
            )
            loss.backward()
            times.append(time.process_time() - begun)
        torch.set_num_threads(threads)
        of_sizes = len(trained_sizes(config)) / len(set(trained_sizes(config)))
        return min(times) * of_sizes / (_BATCH * self.madds(config))


def seconds(config: RunConfig, rate: Rate) -> float:
    """About how long a run takes."""
    images = config.data.train_images or rate.images
    return rate.per_madd * rate.madds(config) * images * config.train.epochs * OVERHEAD


def _network(config: RunConfig) -> SwitchableNetwork:
    model = config.model
    stem = model.stem
    wbits, abits = checked_bits(model.bits)[0] if model.bits else (model.wbits, model.abits)
    by_size = stem == "auto" and model.arch in LAYERS and max(model.resolutions) > 64
    return create(
        model.arch,
        wbits,
        abits,
        trained_sizes(config),
        num_classes=10,
        width=model.width,
        stem="imagenet" if by_size else stem,
        block=model.block,
        task=model.task,
    )


def _images(planned: Sequence[PlannedRun], store: Path) -> int:
    """Training images of the data set, from a run that has begun, or of the set itself."""
    from rsquant.train.training import open_data

    try:
        return len(open_data(planned[0].config).train)
    except (RsquantError, OSError):
        return IMAGENET
