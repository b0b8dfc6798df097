"""Intersection over union at every size: of all classes, and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rsquant.report.latency import Latency
from rsquant.report.section import Section, Table
from rsquant.tasks.segmentation import SEGMENTATION, Overlap


def section(
    run: str,
    found: Mapping[int, Overlap],
    madds: Mapping[int, float],
    latency: Latency,
    classes: Sequence[str],
) -> Section:
    """A table of sizes, and one of classes, the worst at the largest size first."""
    sizes = sorted(found, reverse=True)
    figures = {size: found[size].figures() for size in sizes}
    headings = [figure.heading for figure in SEGMENTATION.figures]
    rows = [
        [
            str(size),
            *(figure.show(figures[size][figure.name]) for figure in SEGMENTATION.figures),
            f"{madds[size] / 1e6:.0f}",
            f"{latency.times[size].median:.1f}",
        ]
        for size in sizes
    ]
    table = Table(("size", *headings, "M MAdds", "ms"), rows, "of all pixels with a class")
    by_class: dict[int, list[dict[str, Any]]] = {
        size: found[size].by_class(classes) for size in sizes
    }

    def iou(size: int, i: int) -> float | None:
        value: float | None = by_class[size][i]["iou"]
        return value

    def of_largest(i: int) -> float:
        value = iou(sizes[0], i)
        return float("inf") if value is None else value

    order = sorted(range(len(by_class[sizes[0]])), key=of_largest)
    cells = [
        [
            classes[i],
            f"{by_class[sizes[0]][i]['samples']:,}",
            *("-" if iou(s, i) is None else f"{iou(s, i):.1f}" for s in sizes),
        ]
        for i in order
    ]
    each = Table(("class", "pixels", *map(str, sizes)), cells, "IoU % of each class by size")
    engine = "rsquant's kernels" if latency.engine == "packed" else "PyTorch in float32"
    text = [
        f"{found[sizes[0]].samples:,} images, each resized to a square; predictions are compared "
        f"at the labels' own size. Milliseconds are of one image on one thread, by {engine}."
    ]
    kept = {
        str(size): {**figures[size], "by_class": by_class[size], "madds": madds[size]}
        for size in sizes
    }
    return Section("iou", "Intersection over union", text, kept, (), (table, each), run)
