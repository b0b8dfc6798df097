"""What `rsquant report` does: runs to measured sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsquant.config import DataConfig, load_run
from rsquant.data.loader import evaluation_batches
from rsquant.data.split import Source, Split
from rsquant.data.transforms import normalise
from rsquant.device import pick_device
from rsquant.errors import RsquantError
from rsquant.evaluate.complexity import madds
from rsquant.evaluate.report import EvaluationProgress
from rsquant.machine import cpu_model
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.report.answers import Answers, answers
from rsquant.report.compose_maps import compose_maps
from rsquant.report.evenly import Evenly
from rsquant.report.latency import latencies
from rsquant.report.opened import OpenedRun, images_of
from rsquant.report.section import Section
from rsquant.report.sections import (
    confused,
    dense,
    front,
    history,
    levels,
    norms,
    overlap,
    pooled,
    sensitivity,
    worst,
)
from rsquant.report.trials import Trials, low_bit_copy
from rsquant.runs import CONFIG
from rsquant.tasks import by_name
from rsquant.tasks.segmentation import Segmentation
from rsquant.train.metrics import read_metrics
from rsquant.version import __version__

# Multiply-adds that a run's measurements may take, of a network in fake quantization on two slow
# cores: what decides how many images are enough, so that it does not depend on the clock.
DENSE_MADDS = 2e11
POOLED_MADDS = 1e11
TRIAL_MADDS = 3e11
# Images at which a change of some points of top-1 shows.
ENOUGH = 200
FITTING_IMAGES = 64
TIMING_SECONDS = 6.0
LEVEL_IMAGES = 32


@dataclass(frozen=True)
class Measuring:
    """How a report is measured.

    Attributes:
        step: told what is being done, and with how many images.
        tick: told of images done.
        log: told of unreadable images.
    """

    workers: int = 1
    device: torch.device | str = "cpu"
    step: Callable[[str, int], None] = lambda what, images: None
    tick: Callable[[int], None] = lambda images: None
    log: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Report:
    """What was measured; see `page`."""

    title: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]


def measure(
    runs: Sequence[OpenedRun],
    *,
    data: str | None,
    images: int | None,
    workers: int,
    device: str,
    progress: EvaluationProgress,
) -> Report:
    """Measure runs of the same classes.

    Args:
        data, images: another data set than the first run's, and how many validation images.
        workers, device: as in training.
        progress: gets a line for each thing that is done.
    Raises:
        DataError, ModelError: see `images_of`.
    """
    started = time.monotonic()
    source = images_of(runs, data, images)
    if source.note:
        progress.echo(source.note)

    def step(what: str, count: int) -> None:
        progress.echo(f"{time.monotonic() - started:5.0f} s  {what}")
        progress.start(what, 0, 0, 0, count)

    target = pick_device(device)
    for run in runs:
        run.network.to(target)
    how = Measuring(workers, target, step, progress.advance, progress.echo)
    sections = tuple(compose(runs, source, how))
    about = (
        f"{source.name}: {len(source.val):,} validation images, {len(source.classes)} classes.",
        *(f"{run.name}: {run.what}, {run.checkpoint.path.name}." for run in runs),
        f"rsquant {__version__}, torch {torch.__version__}, {cpu_model()}; "
        f"measured in {time.monotonic() - started:.0f} s.",
    )
    title = f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs"
    return Report(title, about, sections)


def affordable(cost: float, budget: float, low: int, high: int) -> int:
    """How many images a budget of multiply-adds suffices for, at `cost` each; low to high."""
    return int(max(min(low, high), min(high, budget // max(1.0, cost))))


def compose(runs: Sequence[OpenedRun], source: Source, how: Measuring) -> Iterator[Section]:
    """Measure, section by section; those about all runs first."""
    if isinstance(by_name(runs[0].network.spec.task), Segmentation):
        yield from compose_maps(
            runs,
            source,
            seconds=TIMING_SECONDS,
            workers=how.workers,
            device=how.device,
            step=how.step,
            tick=how.tick,
            log=how.log,
        )
        return
    total = len(source.val)
    costs = {
        run.name: {size: madds(run.network, size) for size in run.network.resolutions}
        for run in runs
    }
    own: dict[str, Answers] = {}
    for run in runs:
        how.step(f"{run.name}: accuracy", total)
        sizes = tuple(dict.fromkeys(run.network.resolutions))
        own[run.name] = _answers(run, source.val, sizes, how)
    how.step("milliseconds", 0)
    sizes_of = {run.name: tuple(dict.fromkeys(run.network.resolutions)) for run in runs}
    times = latencies({run.name: run.network for run in runs}, sizes_of, TIMING_SECONDS)
    top1 = {name: {s: found.top1(s) for s in found.logits} for name, found in own.items()}
    points = front.points(top1, costs, times, len(own[runs[0].name].labels))
    yield front.section(points, {run.name: run.what for run in runs}, times, cpu_model())
    yield _dense(runs, source, how)
    for run in runs:
        found = own[run.name]
        one_run = (
            overlap.section(run.name, found, sizes_of[run.name]),
            _history(run),
            _pooled(run, source, how),
            norms.section(run.name, norms.norms(run.network)),
            _levels(run, source, how),
            _sensitivity(run, source, how),
            confused.section(run.name, found, sizes_of[run.name], source.classes),
            worst.section(
                run.name, worst.worst(found, sizes_of[run.name]), source.val, source.classes
            ),
        )
        yield from (section for section in one_run if section is not None)


def _answers(run: OpenedRun, split: Split, sizes: Sequence[int], how: Measuring) -> Answers:
    return answers(
        run.network,
        split,
        sizes,
        workers=how.workers,
        device=how.device,
        tick=how.tick,
        log=how.log,
    )


def _dense(runs: Sequence[OpenedRun], source: Source, how: Measuring) -> Section:
    total = len(source.val)
    sizes = {
        run.name: dense.dense_sizes(run.network.resolutions, run.network.stride) for run in runs
    }
    cost = max(sum(madds(run.network, size) for size in sizes[run.name]) for run in runs)
    count = affordable(cost, DENSE_MADDS, 100, total)
    found = {}
    for run in runs:
        how.step(f"{run.name}: {len(sizes[run.name])} sizes", count)
        found[run.name] = _answers(run, Evenly(source.val, count), sizes[run.name], how)
    trained = {run.name: run.network.resolutions for run in runs}
    return dense.section(found, trained, count, total)


def _history(run: OpenedRun) -> Section | None:
    """Of a run folder whose metrics.csv can be read."""
    rows = read_metrics(run.folder) if run.folder is not None else []
    return history.section(run.name, history.history(rows)) if rows else None


def _pooled(run: OpenedRun, source: Source, how: Measuring) -> Section | None:
    """Of as many images as are enough for a distribution, each run twice at every size."""
    network = run.network
    cost = 2.0 * sum(madds(network, size) for size in network.resolutions)
    count = affordable(cost, POOLED_MADDS, 32, min(256, len(source.val)))
    how.step(f"{run.name}: pooled features", count)
    area = _training_area(run)
    split = Evenly(source.val, count)
    found = pooled.pooled(network, split, area, 0, how.workers, how.device)
    return pooled.section(run.name, found, count, area)


def _training_area(run: OpenedRun) -> tuple[float, float]:
    """Share of an image that the run's training crops; the paper's, where there is no run."""
    if run.folder is None:
        return DataConfig.area
    return load_run(run.folder / CONFIG).data.area


def _levels(run: OpenedRun, source: Source, how: Measuring) -> Section | None:
    """On a batch at the largest size."""
    network = run.network
    how.step(f"{run.name}: levels", 0)
    found = levels.Levels(levels.weight_levels(network))
    size = network.resolutions[0]
    split = Evenly(source.val, LEVEL_IMAGES)
    batch = next(iter(evaluation_batches(split, (size,), LEVEL_IMAGES, 0)))
    spec = network.spec
    images = normalise(batch.images[0].to(how.device), spec.mean, spec.std)
    found.activations.extend(levels.activation_levels(network, images))
    return levels.section(run.name, found, len(images), size)


def _sensitivity(run: OpenedRun, source: Source, how: Measuring) -> Section:
    """At the largest size at which there is time for enough images, else at the smallest."""
    title = "What each layer's bits cost"
    try:
        units = low_bit_copy(run)
        variants = 2 + 2 * sum(isinstance(m, QUANTIZED_LAYERS) for m in units.body.modules())
        sizes = sorted(set(run.network.resolutions), reverse=True)
        counts = {
            size: affordable(
                madds(units, size) * variants, TRIAL_MADDS, 64, min(500, len(source.val))
            )
            for size in sizes
        }
        size = next((s for s in sizes if counts[s] >= ENOUGH), sizes[-1])
        how.step(f"{run.name}: layer by layer", variants * counts[size])
        trials = Trials(
            run,
            size,
            _pixels(run, Evenly(source.train, FITTING_IMAGES), size, how)[0],
            *_pixels(run, Evenly(source.val, counts[size]), size, how),
        )
    except RsquantError as error:
        return Section("sensitivity", title, [f"Not measured: {error}."], {}, run=run.name)
    found = sensitivity.sensitivity(trials, how.tick)
    spec = run.network.spec
    was_float = not (spec.low_bit_weights or spec.low_bit_activations)
    shown, fitted = len(trials.images), len(trials.fitting)
    return sensitivity.section(run.name, found, shown, fitted, size, was_float)


def _pixels(run: OpenedRun, split: Split, size: int, how: Measuring) -> tuple[Tensor, Tensor]:
    """All images of a split at a size, normalised, and their labels."""
    spec = run.network.spec
    images, labels = [], []
    for batch in evaluation_batches(split, (size,), 64, how.workers):
        images.append(normalise(batch.images[0].to(how.device), spec.mean, spec.std))
        labels.append(batch.labels.to(how.device))
    return torch.cat(images), torch.cat(labels)
