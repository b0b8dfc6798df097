"""The sections that try other bits layer by layer: on which images, and for which run."""

from __future__ import annotations

import torch
from torch import Tensor

from rsquant.config import dump_yaml, load_run
from rsquant.data.loader import evaluation_batches
from rsquant.data.split import Source, Split
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError, RsquantError
from rsquant.evaluate.complexity import madds
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.report.bit_budget import WIDTHS, Budget
from rsquant.report.evenly import Evenly
from rsquant.report.layers import layer_rows
from rsquant.report.measuring import Measuring, affordable
from rsquant.report.opened import OpenedRun
from rsquant.report.section import Section
from rsquant.report.sections import bits, sensitivity
from rsquant.report.trials import Trials, low_bit_copy
from rsquant.runs import CONFIG

# See `affordable`.
MADDS = 9e11
# Images at which a change of some points of top-1 shows, and more than which do not say more.
ENOUGH, MOST = 200, 500
FITTING_IMAGES = 64
SUGGESTED = "layer_bits.yaml"


def sensitivity_section(run: OpenedRun, source: Source, how: Measuring) -> Section:
    """What each layer's bits cost; in a sentence why not, where that cannot be measured."""
    try:
        trials = _trials(run, source, how, per_unit=2)
    except RsquantError as error:
        text = [f"Not measured: {error}."]
        return Section("sensitivity", "What each layer's bits cost", text, {}, run=run.name)
    found = sensitivity.sensitivity(trials, how.tick)
    shown, fitted = len(trials.images), len(trials.fitting)
    return sensitivity.section(run.name, found, shown, fitted, trials.size, _is_float(run))


def suggested(
    run: OpenedRun, source: Source, how: Measuring, budget: Budget
) -> tuple[Section, dict[str, str]]:
    """The section on bits for a budget, and the configuration with them by file name.

    Raises:
        ConfigError: nothing meets the budget, or the network's layers cannot be given bits.
    """
    spec = run.network.spec
    weights = _is_float(run) or spec.low_bit_weights
    if not weights:
        raise ConfigError("suggest_bits: the weights of this run are in float32; train them, too")
    try:
        trials = _trials(run, source, how, per_unit=len(WIDTHS), bits=WIDTHS)
    except RsquantError as error:
        raise ConfigError(f"suggest_bits: {run.name} cannot be given other bits: {error}") from None
    low_bit = {layer for unit in trials.units for layer in unit.layers}
    rest = sum(r.weight_bytes for r in layer_rows(run.network) if r.name not in low_bit)
    found = bits.suggest(trials, budget, rest, how.tick)
    files = {}
    if run.folder is not None:
        activations = _is_float(run) or spec.low_bit_activations
        most, others = bits.layer_bits(trials, found.bits, weights, activations)
        config = load_run(run.folder / CONFIG)
        changed = bits.config_with(config, most, others, weights, activations, spec.block)
        files[SUGGESTED] = dump_yaml(changed)
    return bits.section(run.name, found, budget, len(trials.images), trials.size), files


def _is_float(run: OpenedRun) -> bool:
    spec = run.network.spec
    return min(spec.wbits, spec.abits) == FLOAT and not (
        spec.low_bit_weights or spec.low_bit_activations
    )


def _trials(
    run: OpenedRun,
    source: Source,
    how: Measuring,
    per_unit: int,
    bits: tuple[int, ...] = (),
) -> Trials:
    """At the largest size at which there is time for enough images, else at the smallest."""
    network = low_bit_copy(run)
    layers = sum(isinstance(m, QUANTIZED_LAYERS) for m in network.body.modules())
    variants = per_unit * layers + 10
    most = min(MOST, len(source.val))
    sizes = sorted(set(run.network.resolutions), reverse=True)
    counts = {s: affordable(madds(network, s) * variants, MADDS, 64, most) for s in sizes}
    size = next((s for s in sizes if counts[s] >= min(ENOUGH, most)), sizes[-1])
    how.step(f"{run.name}: layer by layer", variants * counts[size])
    fitting, _ = _pixels(run, Evenly(source.train, FITTING_IMAGES), size, how)
    images, labels = _pixels(run, Evenly(source.val, counts[size]), size, how)
    return Trials(run, size, fitting, images, labels, bits)


def _pixels(run: OpenedRun, split: Split, size: int, how: Measuring) -> tuple[Tensor, Tensor]:
    """All images of a split at a size, normalised, and their labels."""
    spec = run.network.spec
    images, labels = [], []
    for batch in evaluation_batches(split, (size,), 64, how.workers):
        images.append(normalise(batch.images[0].to(how.device), spec.mean, spec.std))
        labels.append(batch.labels.to(how.device))
    return torch.cat(images), torch.cat(labels)
