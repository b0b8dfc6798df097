"""Bits of each layer for a budget of size or accuracy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rsquant.config import RunConfig
from rsquant.errors import ConfigError
from rsquant.nn.precision import FLOAT
from rsquant.report.bit_budget import WIDTHS, Budget, best_bits
from rsquant.report.picture import drawn, png
from rsquant.report.section import Picture, Section, Table
from rsquant.report.trials import Trials

# Variants that are measured in the search for an accuracy.
TRIES = 7


@dataclass(frozen=True)
class Suggestion:
    """What was found.

    Attributes:
        bits: of each unit.
        size: bytes of all weights, those in float32 too, as `rsquant info` counts them.
        top1: measured with these bits, without training.
        uniform: bits -> (size, top1) of the network with the same bits everywhere.
        costs: unit -> bits -> loss that the unit alone adds at these bits.
    """

    bits: dict[str, int]
    size: int
    top1: float
    uniform: dict[int, tuple[int, float]]
    costs: dict[str, dict[int, float]]


def suggest(
    trials: Trials, budget: Budget, rest: int, tick: Callable[[int], None] = lambda images: None
) -> Suggestion:
    """Measure what each unit alone costs at each of WIDTHS, and choose.

    Costs are taken to add up, which they do as long as they are small.

    Args:
        rest: bytes of the weights that stay in float32.
    Raises:
        ConfigError: nothing meets the budget; says what does.
    """

    def measured(chosen: Mapping[str, int]) -> tuple[float, float]:
        found = trials.outcome(chosen)
        tick(len(trials.images))
        return found.loss, found.top1

    start, _ = measured({})
    # A gain is chance: nothing is gained by rounding.
    costs = {
        u.name: {b: max(0.0, measured({u.name: b})[0] - start) for b in WIDTHS}
        for u in trials.units
    }
    for by_bits in costs.values():  # more bits never cost more, but for chance
        for few, more in itertools.pairwise(WIDTHS):
            by_bits[more] = min(by_bits[few], by_bits[more])
    sizes = {u.name: {b: u.bytes_at(b) for b in WIDTHS} for u in trials.units}

    def total(bits: Mapping[str, int]) -> int:
        return rest + sum(sizes[name][b] for name, b in bits.items())

    uniform = {}
    for bits in WIDTHS:
        same = dict.fromkeys(costs, bits)
        uniform[bits] = (total(same), measured(same)[1])

    def within(size: int) -> dict[str, int] | None:
        found = best_bits(list(costs.values()), list(sizes.values()), max(0, size - rest))
        return None if found is None else dict(zip(costs, found, strict=True))

    if budget.size is not None:
        chosen = within(budget.size)
        if chosen is None:
            least = total(dict.fromkeys(costs, WIDTHS[0]))
            raise ConfigError(
                f"suggest_bits: {budget} are too few, with 1 bit everywhere the weights take "
                f"{least / 1000:,.1f} KB; give a larger size"
            )
        return Suggestion(chosen, total(chosen), measured(chosen)[1], uniform, costs)
    assert budget.top1 is not None
    low, high = uniform[WIDTHS[0]][0], uniform[WIDTHS[-1]][0]
    best = dict.fromkeys(costs, WIDTHS[-1])
    top1 = uniform[WIDTHS[-1]][1]
    if top1 < budget.top1:
        raise ConfigError(
            f"suggest_bits: {budget} is more than 4 bits everywhere reach without training, "
            f"{top1:.1f} %; give a lower accuracy, or a size"
        )
    for _ in range(TRIES):
        middle = (low + high) // 2
        chosen = within(middle)
        found = -1.0 if chosen is None else measured(chosen)[1]
        if chosen is not None and found >= budget.top1:
            best, top1, high = chosen, found, middle
        else:
            low = middle
    return Suggestion(best, total(best), top1, uniform, costs)


def layer_bits(
    trials: Trials, found: Mapping[str, int], weights: bool, activations: bool
) -> tuple[int, dict[str, str]]:
    """The bits that most layers have, and those of the others as a config's `layer_bits`.

    What the run's own patterns leave in float32 stays so: whole layers, weights, or inputs.

    Args:
        weights, activations: which of the two the network has low-bit.
    """
    most = Counter(found[u.name] for u in trials.units for _ in u.layers).most_common(1)[0][0]

    def text(wbits: int, abits: int) -> str:
        return f"{wbits if weights else ''}/{abits if activations else ''}"

    others = {layer: text(*own) for layer, own in trials.float_layers.items()}
    for unit in trials.units:
        bits = found[unit.name]
        for layer, quantizer in unit.weights[unit.bits].items():
            here = text(FLOAT if quantizer is None else bits, bits if unit.source else FLOAT)
            if here != text(most, most):
                others[layer] = here
    return most, others


def config_with(
    config: RunConfig,
    most: int,
    others: Mapping[str, str],
    weights: bool,
    activations: bool,
    block: str = "auto",
) -> RunConfig:
    """A run's config with these bits, to train with.

    Args:
        block: of the network that was measured, whose layers `others` names; of "auto" others bits
            may make another one.
    """
    model = replace(
        config.model,
        block=block if block != "own" else config.model.block,
        wbits=most if weights else FLOAT,
        abits=most if activations else FLOAT,
        layer_bits=dict(others),
    )
    # What is written by training and not set.
    data = replace(config.data, fingerprint="")
    train = replace(config.train, teacher_fingerprint="", bits_schedule="")
    return replace(config, model=model, data=data, train=train)


def section(run: str, found: Suggestion, budget: Budget, images: int, size: int) -> Section:
    """The bits of each layer as bars, and sizes and accuracies beside those of uniform bits."""
    names = list(found.bits)
    with drawn(height=2.9) as (figure, grid):
        axes = grid[0, 0]
        bars = axes.bar(
            range(len(names)),
            found.bits.values(),
            color="#4c78a8",
            edgecolor="black",
            linewidth=0.5,
        )
        axes.bar_label(bars, fontsize=7)
        axes.set_ylabel("suggested bits")
        axes.set_ylim(0, 4.6)
        axes.set_yticks(WIDTHS)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6.5)
        picture = Picture("bits", png(figure), "Suggested bits of each layer, a bar each.")
    rows = [["suggested", f"{found.size / 1000:,.1f}", f"{found.top1:.1f}"]]
    rows += [
        [f"{bits} bits everywhere", f"{taken / 1000:,.1f}", f"{top1:.1f}"]
        for bits, (taken, top1) in found.uniform.items()
    ]
    text = [
        f"The bits with the least added loss for {budget}: of each layer alone the loss at 1 to 4 "
        f"bits was measured on {images:,} validation images at {size} pixels, without training, "
        "and losses are taken to add up. Training recovers much of what is lost here; compare the "
        "rows with each other, not with trained networks.",
        "layer_bits.yaml beside this page is the run's configuration with these bits, which "
        "rsquant train takes.",
    ]
    figures = {
        "budget": str(budget),
        "bits": found.bits,
        "bytes": found.size,
        "top1": found.top1,
        "uniform": {str(b): {"bytes": s, "top1": t} for b, (s, t) in found.uniform.items()},
        "added_loss": {u: {str(b): c for b, c in by.items()} for u, by in found.costs.items()},
    }
    table = Table(("bits", "weights, KB", "top-1 without training, %"), rows)
    return Section("bits", "Suggested bits", text, figures, (picture,), (table,), run)
