"""The roofline picture: what layers reach beside what the device can do at their intensity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsquant.atomic import replacing
from rsquant.bench.rows import CudaLayerRow

# Colours of Okabe and Ito, which also those who do not see red or green tell apart.
_COLOURS = {
    "gpu": "#D55E00",
    "cudnn_bf16": "#0072B2",
    "cudnn_fp16": "#56B4E9",
    "int8": "#009E73",
}
_LABELS = {
    "gpu": "ours, packed",
    "cudnn_bf16": "cuDNN bfloat16",
    "cudnn_fp16": "cuDNN float16",
    "int8": "cuBLAS int8, no epilogue",
}
_MARKERS = {"1x1": "o", "3x3": "s"}
_OTHER_KERNEL = "^"
_MOST_COLUMNS = 3


def roofline(rows: Sequence[CudaLayerRow], path: Path, title: str) -> Path:
    """Draw rows of `layers.bench_layers`, one panel per batch.

    x: operations per byte that a layer has to move at least. y: operations per second, of the
    median time. A multiply-add is two operations. Lines: the measured copy and matrix products.

    Args:
        path: of a PNG, replaced if it exists.
        title: what was measured, on what.
    """
    # matplotlib's figure without pyplot: no display, no global state.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    batches = sorted({row.batch for row in rows})
    columns = max(1, min(len(batches), _MOST_COLUMNS))
    lines = max(1, -(-len(batches) // columns))
    figure = Figure(figsize=(1.2 + 4.6 * columns, 1.6 + 4.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    drawn = [row for row in rows if row.median_ms > 0]
    intensities = [point(row)[0] for row in drawn]
    span = min(intensities, default=1.0) / 2, max(intensities, default=1.0) * 2
    for axes, batch in zip(panels.flat, batches, strict=False):
        _panel(axes, [row for row in drawn if row.batch == batch], span)
        axes.set_title(f"batch {batch}", fontsize=11)
        axes.set_xlabel("operations per byte (a multiply-add is two)")
    for axes in panels[:, 0]:
        axes.set_ylabel("tera-operations per second")
    for axes in panels.flat[len(batches) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=12)
    # How a marker looks, and what it says.
    known = [(_COLOURS[e], "o", _LABELS[e]) for e in _COLOURS if e in {r.engine for r in rows}]
    known += [
        ("#888888", _MARKERS.get(kernel, _OTHER_KERNEL), f"{kernel} convolution")
        for kernel in sorted({row.kernel for row in rows})
    ]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=label)
        for colour, marker, label in known
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path


def point(row: CudaLayerRow) -> tuple[float, float]:
    """(operations per byte, tera-operations per second) of a row."""
    operations = 2.0 * row.macs
    return operations / row.bytes, operations / (row.median_ms / 1e3) / 1e12


def _panel(axes: Any, rows: Sequence[CudaLayerRow], span: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*span)
    axes.grid(which="major", alpha=0.25)
    for row in rows:
        axes.plot(
            *point(row),
            marker=_MARKERS.get(row.kernel, _OTHER_KERNEL),
            markersize=6,
            color=_COLOURS[row.engine],
            alpha=0.75,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linestyle="",
        )
    if rows:
        _roofs(axes, rows, span)


def _roofs(axes: Any, rows: Sequence[CudaLayerRow], span: tuple[float, float]) -> None:
    """The slope of the copy up to each matrix product's level, labelled where they lie."""
    left, right = span
    copy = max(row.copy_gbytes_per_s for row in rows) / 1e3
    peaks = {}
    for row in rows:
        if row.peak_tmacs:
            kind = "int8" if row.engine in ("gpu", "int8") else "bfloat16"
            peaks[kind] = 2.0 * row.peak_tmacs
    end = max(peaks.values(), default=right * copy) / copy
    axes.plot([left, end], [left * copy, end * copy], color="black", linewidth=1.2)
    # No point lies above the roof, so its labels do.
    beside: dict[str, Any] = {
        "textcoords": "offset points",
        "xytext": (-10, 3),
        "ha": "right",
        "fontsize": 8.5,
    }
    middle = (left * end) ** 0.5
    axes.annotate(f"copy {copy:.2g} TB/s", (middle, middle * copy), **beside)
    for kind, peak in peaks.items():
        axes.plot([peak / copy, right], [peak, peak], color="black", linewidth=1.2)
        label = f"{kind} matrix product\n{peak:.0f} T/s"
        axes.annotate(label, (peak / copy, peak), va="center", **beside)
