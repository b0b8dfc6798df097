"""What `rsquant report` does: runs to measured sections."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from rsquant.config import DataConfig, load_run
from rsquant.data.loader import evaluation_batches
from rsquant.data.split import Source, Split
from rsquant.data.transforms import normalise
from rsquant.device import pick_device
from rsquant.errors import ConfigError
from rsquant.evaluate.complexity import madds
from rsquant.evaluate.report import EvaluationProgress
from rsquant.machine import cpu_model
from rsquant.report import by_layer, pareto
from rsquant.report.answers import Answers, answers
from rsquant.report.bit_budget import parse_budget
from rsquant.report.compose_maps import compose_maps
from rsquant.report.evenly import Evenly
from rsquant.report.latency import latencies
from rsquant.report.measuring import Measuring, affordable
from rsquant.report.opened import OpenedRun, images_of
from rsquant.report.section import Section
from rsquant.report.sections import (
    confused,
    dense,
    front,
    history,
    levels,
    moved,
    norms,
    overlap,
    pooled,
    worst,
)
from rsquant.runs import CONFIG
from rsquant.tasks import by_name
from rsquant.tasks.segmentation import Segmentation
from rsquant.train.level_record import read_levels
from rsquant.train.metrics import read_metrics
from rsquant.version import __version__

# See `measuring.affordable`.
DENSE_MADDS = 2e11
POOLED_MADDS = 1e11
TIMING_SECONDS = 6.0
LEVEL_IMAGES = 32


@dataclass(frozen=True)
class Report:
    """What was measured; see `page`. Also text files to write beside it, by name."""

    title: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]
    files: dict[str, str] = field(default_factory=dict)


def measure(
    runs: Sequence[OpenedRun],
    *,
    data: str | None,
    images: int | None,
    workers: int,
    device: str,
    progress: EvaluationProgress,
    suggest_bits: str | None = None,
) -> Report:
    """Measure runs of the same classes.

    Args:
        data, images: another data set than the first run's, and how many validation images.
        workers, device: as in training.
        progress: gets a line for each thing that is done.
        suggest_bits: a budget to choose the bits of a single run's layers for, see `bit_budget`.
    Raises:
        ConfigError: nothing meets the budget, or it is none.
        DataError, ModelError: see `images_of`.
    """
    budget = None if suggest_bits is None else parse_budget(suggest_bits)
    if budget is not None and len(runs) > 1:
        raise ConfigError("suggest_bits: needs a single run with one setting of bits; name one")
    if budget is not None and _is_segmentation(runs[0]):
        raise ConfigError("suggest_bits: is of classification; leave it out")
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
    sections: list[Section] = []
    files: dict[str, str] = {}
    if budget is not None:
        section, files = by_layer.suggested(runs[0], source, how, budget)
        sections.append(section)
    sections = [*compose(runs, source, how), *sections]
    about = (
        f"{source.name}: {len(source.val):,} validation images, {len(source.classes)} classes.",
        *(f"{run.name}: {run.what}, {run.checkpoint.path.name}." for run in runs),
        f"rsquant {__version__}, torch {torch.__version__}, {cpu_model()}; "
        f"measured in {time.monotonic() - started:.0f} s.",
    )
    title = f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs"
    return Report(title, about, tuple(sections), files)


def _is_segmentation(run: OpenedRun) -> bool:
    return isinstance(by_name(run.network.spec.task), Segmentation)


def compose(runs: Sequence[OpenedRun], source: Source, how: Measuring) -> Iterator[Section]:
    """Measure, section by section; those about all runs first."""
    if _is_segmentation(runs[0]):
        yield from compose_maps(runs, source, how, TIMING_SECONDS)
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
    files = {run.name: run.file for run in runs}
    points = pareto.points(files, top1, costs, times, len(own[runs[0].name].labels))
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
            _moved(run),
            by_layer.sensitivity_section(run, source, how),
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
    rows = read_metrics(run.folder) if run.folder is not None and run.is_first else []
    return history.section(run.name, history.history(rows)) if rows else None


def _moved(run: OpenedRun) -> Section | None:
    """Of a run folder with a record."""
    rows = read_levels(run.folder) if run.folder is not None and run.is_first else []
    return moved.section(run.name, rows)


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
