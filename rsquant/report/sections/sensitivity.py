"""What each layer's bits cost: one layer alone low-bit, and one alone not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rsquant.report.picture import drawn, png
from rsquant.report.section import Picture, Section, Table
from rsquant.report.trials import Outcome, Trials


@dataclass(frozen=True)
class Change:
    """On the same images: of top-1 in points, the standard error of that, and of the loss."""

    top1: float
    error: float
    loss: float


@dataclass(frozen=True)
class Sensitivity:
    """Measured without training, see `trials`.

    Attributes:
        names, bits: of each unit.
        float32, low: top-1 with every unit in float32, and with all at their bits.
        alone_low: unit alone at its bits, against `float32`.
        alone_float: unit alone in float32, against `low`.
    """

    names: list[str]
    bits: list[int]
    float32: float
    low: float
    alone_low: list[Change]
    alone_float: list[Change]


def sensitivity(trials: Trials, tick: Callable[[int], None] = lambda images: None) -> Sensitivity:
    """Measure two variants for each unit."""

    def measured(chosen: dict[str, int]) -> Outcome:
        found = trials.outcome(chosen)
        tick(len(trials.images))
        return found

    own = trials.own
    float32, low = measured({}), measured(own)
    alone_low, alone_float = [], []
    for name, bits in own.items():
        alone_low.append(_change(measured({name: bits}), float32))
        others = {other: width for other, width in own.items() if other != name}
        alone_float.append(_change(measured(others), low))
    return Sensitivity(
        list(own), list(own.values()), float32.top1, low.top1, alone_low, alone_float
    )


def _change(found: Outcome, against: Outcome) -> Change:
    top1, error = found.gained(against)
    return Change(top1, error, found.loss - against.loss)


def section(
    run: str, found: Sensitivity, images: int, fitting: int, size: int, was_float: bool
) -> Section:
    """Two bar charts and a table."""
    charts = (
        (found.alone_low, f"one layer alone low-bit (all in float32: {found.float32:.1f} %)"),
        (found.alone_float, f"one layer alone in float32 (all low-bit: {found.low:.1f} %)"),
    )
    with drawn(height=5.2, rows=2) as (figure, grid):
        for axes, (changes, title) in zip(grid[:, 0], charts, strict=True):
            axes.bar(
                range(len(changes)),
                [one.top1 for one in changes],
                yerr=[one.error for one in changes],
                color="#4c78a8",
                edgecolor="black",
                linewidth=0.5,
                capsize=2,
                error_kw={"elinewidth": 0.8},
            )
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_title(title)
            axes.set_ylabel("change of top-1, points")
            axes.grid(alpha=0.3, axis="y")
            axes.set_xticks(range(len(changes)), found.names, rotation=90, fontsize=6.5)
        says = "Changes of top-1 by layer: one alone low-bit, and one alone in float32."
        picture = Picture("sensitivity", png(figure), says)
    rows = [
        [
            name,
            str(bits),
            f"{low.top1:+.1f} ± {low.error:.1f}",
            f"{low.loss:+.3f}",
            f"{free.top1:+.1f} ± {free.error:.1f}",
            f"{free.loss:+.3f}",
        ]
        for name, bits, low, free in zip(
            found.names, found.bits, found.alone_low, found.alone_float, strict=True
        )
    ]
    text = [
        f"Measured without training on {images:,} validation images, evenly over the classes, at "
        f"{size} pixels; BatchNorm statistics are estimated anew for every variant, from {fitting} "
        "training images. ± is the standard error of the change, from the same images.",
        "Layers that read one activation quantizer change together (“+1”: with one more layer)."
        + (
            " The run is in float32: weights and activations are rounded to levels fitted to them."
            if was_float
            else " Float32 means the weights behind the levels, which training has used through "
            "them alone: with all layers in float32 the network is not a trained one."
        ),
    ]
    headings = ("layer", "bits", "alone low-bit", "loss", "alone in float32", "loss")
    figures = {
        "images": images,
        "size": size,
        "top1_float32": found.float32,
        "top1_low": found.low,
        "layers": [
            {"layer": name, "bits": bits, "alone_low": vars(low), "alone_float32": vars(free)}
            for name, bits, low, free in zip(
                found.names, found.bits, found.alone_low, found.alone_float, strict=True
            )
        ],
    }
    title = "What each layer's bits cost"
    table = Table(headings, rows)
    return Section("sensitivity", title, text, figures, (picture,), (table,), run)
