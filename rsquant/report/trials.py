"""A network whose layers can be given other bits one at a time, without training.

What training would make of other bits is not known before it is done. What can be measured in
seconds: the weights as they are, levels fitted to them and to activations, and BatchNorm statistics
of the network as it is then. Without new statistics a network with one layer changed would show the
shift of its statistics more than what the levels lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.errors import ModelError
from rsquant.models.factory import build
from rsquant.models.start_from import start_from
from rsquant.nn.batch_statistics import normalising_by_batches
from rsquant.nn.copying import copied
from rsquant.nn.modes import evaluation_mode
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
    make_activations,
    make_weights,
)
from rsquant.report.layers import layer_rows
from rsquant.report.opened import OpenedRun

# Activations that levels are fitted to; more change nothing that matters.
FITTED = 100_000
# Bits that a float network's layers get.
FLOAT_RUN_BITS = 2
# Where this many images are run at a time.
BATCH = 64


@dataclass
class Unit:
    """Layers whose bits change together, since they read one activation quantizer.

    Attributes:
        layers: their names.
        source: name of that quantizer in the body, "" where activations stay in float32.
        bits: what they have in the run; FLOAT_RUN_BITS for a float run.
        weights: bits -> layer -> quantizer; activations: bits -> quantizer.
    """

    layers: tuple[str, ...]
    source: str
    bits: int
    sizes: tuple[int, ...]
    weights: dict[int, dict[str, WeightQuantizer | None]] = field(default_factory=dict)
    activations: dict[int, ActivationQuantizer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the first layer, and how many more there are."""
        more = len(self.layers) - 1
        return self.layers[0] + (f" +{more}" if more else "")

    def bytes_at(self, bits: int) -> int:
        """Of the weights, each layer's rounded up to bytes, as `rsquant info` counts them."""
        return sum(-(-size * bits // 8) for size in self.sizes)


@dataclass(frozen=True)
class Outcome:
    """Of N images: whether each is right, and its loss in nats."""

    right: Tensor
    losses: Tensor

    @property
    def top1(self) -> float:
        """Percent."""
        return 100.0 * float(self.right.double().mean())

    @property
    def loss(self) -> float:
        return float(self.losses.double().mean())

    def gained(self, other: Outcome) -> tuple[float, float]:
        """How many points of top-1 this has more than another on the same images, and the
        standard error of that, from the differences image by image."""
        change = 100.0 * (self.right.double() - other.right.double())
        return float(change.mean()), float(change.std() / len(change) ** 0.5)


class Trials:
    """Variants of a run's network at one size.

    Args:
        run: its network is not changed.
        size: a trained one, in pixels.
        fitting: (N, 3, size, size) float32, normalised: training images, for levels and statistics.
        images, labels: what is measured on; normalised, and (N,) int64.
        bits: that can be given to layers beside their own.
    Raises:
        ModelError: no such network can be made, in a clause why.
    """

    def __init__(
        self,
        run: OpenedRun,
        size: int,
        fitting: Tensor,
        images: Tensor,
        labels: Tensor,
        bits: Sequence[int] = (),
    ) -> None:
        self.network = low_bit_copy(run)
        self.size, self.fitting, self.images, self.labels = size, fitting, images, labels
        self._modules = dict(self.network.body.named_modules())
        self.units = self._find_units()
        if not self.units:
            raise ModelError("it has no layer that could be low-bit")
        self._keep_own()
        is_float = not (run.network.spec.low_bit_weights or run.network.spec.low_bit_activations)
        self._fit(tuple(bits), replace_own=is_float)

    def outcome(self, chosen: Mapping[str, int]) -> Outcome:
        """Measure the network with these bits by unit's name; units not named are in float32."""
        self._set(chosen)
        self._restate()
        right, losses = [], []
        with (
            torch.inference_mode(),
            evaluation_mode(self.network),
            self.network.at(self.size),
            self.network.weights_quantized_once(),
        ):
            for x, y in zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True):
                logits = self.network(x).float()
                right.append(logits.argmax(1) == y)
                losses.append(functional.cross_entropy(logits, y, reduction="none"))
        return Outcome(torch.cat(right).cpu(), torch.cat(losses).cpu())

    @property
    def float_layers(self) -> dict[str, tuple[int, int]]:
        """Layers whose weights the run's patterns leave in float32: bits of weights and input."""
        patterns = [one.pattern for one in self.network.spec.precisions.bits]
        low_bit = {layer for unit in self.units for layer in unit.layers}
        return {
            row.name: (row.wbits, row.abits)
            for row in layer_rows(self.network)
            if row.name not in low_bit and any(fnmatchcase(row.name, one) for one in patterns)
        }

    @property
    def own(self) -> dict[str, int]:
        """The bits that every unit has in the run."""
        return {unit.name: unit.bits for unit in self.units}

    def _find_units(self) -> list[Unit]:
        shared: dict[str, str] = getattr(self.network.body, "input_quantizers", {})
        groups: dict[str, list[str]] = {}
        for name, layer in self._modules.items():
            if not isinstance(layer, QUANTIZED_LAYERS):
                continue
            source = f"{name}.input_quantizer" if layer.input_quantizer else shared.get(name, "")
            if not isinstance(self._modules.get(source), ActivationQuantizer):
                source = ""
            if layer.weight_quantizer is not None or source:
                groups.setdefault(source or f"alone {name}", []).append(name)
        return [self._unit(layers, source) for source, layers in groups.items()]

    def _unit(self, layers: list[str], source: str) -> Unit:
        source = "" if source.startswith("alone ") else source
        modules: list[Any] = [self._modules[name] for name in layers]
        quantizers = [m.weight_quantizer for m in modules if m.weight_quantizer is not None]
        # Of a quantizer with several numbers of bits this is the one in use.
        own = self.network.spec.precisions.of(layers[0])
        bits = own.wbits if quantizers else self._activation(source).bits
        return Unit(tuple(layers), source, bits, tuple(m.weight.numel() for m in modules))

    def _activation(self, source: str) -> ActivationQuantizer:
        found = self._modules[source]
        assert isinstance(found, ActivationQuantizer)
        return found

    def _keep_own(self) -> None:
        for unit in self.units:
            modules: dict[str, Any] = {name: self._modules[name] for name in unit.layers}
            unit.weights[unit.bits] = {n: m.weight_quantizer for n, m in modules.items()}
            if unit.source:
                unit.activations[unit.bits] = self._activation(unit.source)

    @torch.no_grad()
    def _fit(self, bits: tuple[int, ...], replace_own: bool) -> None:
        """Quantizers of these bits, fitted to the float network's weights and activations."""
        self._set({})
        handles = []
        for unit in self.units:
            wanted = {*bits, unit.bits} if replace_own else {*bits} - {unit.bits}
            for width in wanted:
                unit.weights[width] = self._fitted_weights(unit, width)
            if unit.source and wanted:
                first = self._modules[unit.layers[0]]

                def fit(
                    _: nn.Module,
                    args: tuple[Tensor, ...],
                    unit: Unit = unit,
                    wanted: set[int] = wanted,
                ) -> None:
                    self._fit_activations(unit, args[0], wanted)

                handles.append(first.register_forward_pre_hook(fit))
        try:
            self._restate()
        finally:
            for handle in handles:
                handle.remove()

    def _fitted_weights(self, unit: Unit, bits: int) -> dict[str, WeightQuantizer | None]:
        found: dict[str, WeightQuantizer | None] = {}
        for name, own in unit.weights[unit.bits].items():
            if own is None:  # weights stay in float32
                found[name] = None
                continue
            weight = self._modules[name].weight
            assert isinstance(weight, Tensor)
            made = make_weights(own.kind, len(weight), bits, own.grid, own.weight_norm)
            made.to(weight.device).fit(weight.detach())
            found[name] = made.eval()
        return found

    def _fit_activations(self, unit: Unit, x: Tensor, wanted: set[int]) -> None:
        own = unit.activations[unit.bits]
        values = x.detach().flatten().float()
        values = values[:: max(1, len(values) // FITTED)]
        for bits in wanted:
            made = make_activations(own.kind, bits, own.signed, own.grid).to(x.device)
            made.start_from(values)
            unit.activations[bits] = made.eval()

    def _set(self, chosen: Mapping[str, int]) -> None:
        """Put quantizers of the chosen bits in their places, and nothing in the others."""
        for unit in self.units:
            bits = chosen.get(unit.name, FLOAT)
            for name in unit.layers:
                layer: Any = self._modules[name]
                layer.weight_quantizer = unit.weights[bits][name] if bits != FLOAT else None
            if unit.source:
                owner, _, slot = unit.source.rpartition(".")
                off = None if slot == "input_quantizer" else nn.Identity()
                put = unit.activations[bits] if bits != FLOAT else off
                _put(self._modules[owner], slot, put)

    @torch.no_grad()
    def _restate(self) -> None:
        """BatchNorm statistics of the network as it is, of the fitting images."""
        with normalising_by_batches(self.network) as norms:
            for norm in norms:
                norm.momentum = 1.0
            with self.network.active.at_row(self.network.resolutions.index(self.size)):
                self.network(self.fitting)


def low_bit_copy(run: OpenedRun) -> SwitchableNetwork:
    """A copy of a run's network; of a float one, the same as a low-bit network.

    Raises:
        ModelError: it cannot be one, in a clause why.
    """
    spec = run.network.spec
    if spec.integer:
        raise ModelError("its layers compute integers that belong together")
    if spec.low_bit_weights or spec.low_bit_activations:
        return copied(run.network)
    wanted = replace(spec, wbits=FLOAT_RUN_BITS, abits=FLOAT_RUN_BITS, layer_bits=())
    network = build(replace(wanted, layer_quantizer=()))
    device = next(run.network.parameters()).device
    start_from(network, run.checkpoint.path)
    return network.to(device).eval()


def _put(owner: nn.Module, slot: str, module: nn.Module | None) -> None:
    if slot.isdecimal() and isinstance(owner, nn.Sequential):
        assert module is not None
        owner[int(slot)] = module
    else:
        setattr(owner, slot, module)
