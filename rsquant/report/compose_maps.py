"""The sections of a report of segmentation runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rsquant.data.split import Source
from rsquant.evaluate.accuracy import evaluate
from rsquant.evaluate.complexity import madds
from rsquant.report.latency import latencies
from rsquant.report.measuring import Measuring
from rsquant.report.opened import OpenedRun
from rsquant.report.section import Section
from rsquant.report.sections import intersection, maps, norms
from rsquant.tasks import by_name


def compose_maps(
    runs: Sequence[OpenedRun], source: Source, how: Measuring, seconds: float
) -> Iterator[Section]:
    """Measure, run by run.

    Args:
        seconds: of timing.
    """
    sizes = {run.name: tuple(dict.fromkeys(run.network.resolutions)) for run in runs}
    how.step("milliseconds", 0)
    times = latencies({run.name: run.network for run in runs}, sizes, seconds)
    for run in runs:
        how.step(f"{run.name}: every size", len(source.val))
        network, own = run.network, sizes[run.name]
        examples = maps.Examples(by_name(network.spec.task), len(source.val))
        measured = evaluate(
            network,
            source.val,
            own,
            batch=16,
            workers=how.workers,
            device=how.device,
            log=how.log,
            tick=how.tick,
            each=examples.add,
        )
        costs = {size: madds(network, size) for size in own}
        found = measured.sizes
        yield intersection.section(run.name, found, costs, times[run.name], source.classes)
        yield maps.section(run.name, examples.shown(), source.val, source.classes)
        if (section := norms.section(run.name, norms.norms(network))) is not None:
            yield section
