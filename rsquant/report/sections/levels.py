"""Learned levels, quantization error and how often each level is taken, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsquant.nn.modes import evaluation_mode
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer
from rsquant.report.picture import COLOURS, MARKERS, drawn, png
from rsquant.report.section import Picture, Section
from rsquant.train.level_record import relative_levels


@dataclass(frozen=True)
class Quantized:
    """One quantizer.

    Attributes:
        name: of the layer; of activations, of the first layer that reads them.
        levels: (L,) ascending. Of weights the median over channels, each channel's in units of
            its weights' root mean square; of activations as they are.
        error: squared error over squared values.
        shares: (L,) of values that take each level, adding up to 1.
    """

    name: str
    bits: int
    levels: list[float]
    error: float
    shares: list[float]


@dataclass(frozen=True)
class Levels:
    """Of a network; activations in the order of their first use."""

    weights: list[Quantized] = field(default_factory=list)
    activations: list[Quantized] = field(default_factory=list)


@torch.no_grad()
def weight_levels(network: SwitchableNetwork) -> list[Quantized]:
    """Of every layer with low-bit weights, but those that use a part of their quantizer's bits:
    its levels are of all of them."""
    found = []
    for name, layer in network.body.named_modules():
        if not isinstance(layer, QUANTIZED_LAYERS) or layer.weight_quantizer is None:
            continue
        weight, quantizer = layer.weight.detach(), layer.weight_quantizer
        if quantizer.bits != network.spec.precisions.of(name).wbits:
            continue
        flat = weight.flatten(1).double()
        codes = quantizer.codes(weight)
        levels = quantizer.levels()
        with evaluation_mode(quantizer):
            error = (quantizer(weight).double() - weight.double()).square().sum()
        found.append(
            Quantized(
                name,
                quantizer.bits,
                relative_levels(weight, levels),
                float(error / flat.square().sum().clamp_min(1e-30)),
                _shares(codes, levels.shape[-1]),
            )
        )
    return found


@torch.no_grad()
def activation_levels(network: SwitchableNetwork, images: Tensor) -> list[Quantized]:
    """Of every activation quantizer that runs on these images.

    Args:
        images: (N, 3, R, R) float32, normalised, on the network's device.
    """
    found: dict[str, Quantized] = {}
    shared: dict[str, str] = getattr(network.body, "input_quantizers", {})
    readers: dict[str, list[str]] = {}
    for layer, source in shared.items():
        readers.setdefault(source, []).append(layer)
    handles = []
    for name, module in network.body.named_modules():
        if isinstance(module, ActivationQuantizer):
            told = _told(name, readers.get(name, []))

            def note(quantizer: nn.Module, args: Any, name: str = name, told: str = told) -> None:
                assert isinstance(quantizer, ActivationQuantizer)
                if name not in found:
                    found[name] = _activation(told, quantizer, args[0])

            handles.append(module.register_forward_pre_hook(note))
    try:
        with evaluation_mode(network):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _told(name: str, readers: list[str]) -> str:
    """A quantizer by the layer that reads it, and how many more do; else by its own name."""
    if not readers:
        return name.removesuffix(".input_quantizer")
    return readers[0] + (f" +{len(readers) - 1}" if len(readers) > 1 else "")


def _activation(name: str, quantizer: ActivationQuantizer, x: Tensor) -> Quantized:
    values = x.detach().float().flatten()
    levels = quantizer.levels()
    codes = torch.bucketize(values, quantizer.thresholds())
    error = (levels[codes].double() - values.double()).square().sum()
    power = values.double().square().sum().clamp_min(1e-30)
    return Quantized(
        name,
        quantizer.bits,
        levels.tolist(),
        float(error / power),
        _shares(codes, len(levels)),
    )


def _shares(codes: Tensor, levels: int) -> list[float]:
    counts = np.bincount(codes.flatten().cpu().numpy(), minlength=levels)
    return (counts / counts.sum()).tolist()


def section(run: str, found: Levels, images: int, size: int) -> Section | None:
    """Three pictures: levels, errors, shares; None for a network without low-bit layers."""
    both = (("weights", found.weights), ("activations", found.activations))
    sides = tuple((side, rows) for side, rows in both if rows)
    if not sides:
        return None
    pictures = (_levels(sides), _errors(sides), _codes(sides))
    text = [
        "Levels of weights are medians over the channels, in units of the root mean square of a "
        "channel's weights; levels of activations are in units of the activations. The error is "
        "the squared difference from the levels over the squared values, in percent.",
    ]
    if found.activations:
        text.append(f"Activations are those of {images} validation images at {size} pixels.")
    text.append("Shares: light is the lowest level, dark the highest.")
    figures = {side: [vars(one) for one in rows] for side, rows in sides}
    return Section("levels", "Levels, errors and codes", text, figures, pictures, (), run)


def _name_layers(axes: Any, names: list[str]) -> None:
    step = -(-len(names) // 45)
    shown = range(0, len(names), step)
    axes.set_xticks(list(shown), [names[i] for i in shown], rotation=90, fontsize=6.5)
    axes.set_xlim(-0.7, len(names) - 0.3)


def _levels(sides: Any) -> Picture:
    units = {"weights": "level / channel's RMS", "activations": "level"}
    with drawn(height=2.9 * len(sides), rows=len(sides)) as (figure, grid):
        for axes, (side, rows) in zip(grid[:, 0], sides, strict=True):
            most = max(len(one.levels) for one in rows)
            for k in range(most):
                where = [i for i, one in enumerate(rows) if k < len(one.levels)]
                values = [rows[i].levels[k] for i in where]
                marker = MARKERS[k % len(MARKERS)]
                axes.plot(where, values, color=COLOURS[k % 8], marker=marker, ls="", ms=4.5)
            axes.set_title(f"levels of {side}, lowest to highest")
            axes.set_ylabel(units[side])
            axes.axhline(0, color="#888888", linewidth=0.6)
            axes.grid(alpha=0.3, axis="y")
            _name_layers(axes, [one.name for one in rows])
        return Picture("levels", png(figure), "Levels of every layer, a point each.")


def _errors(sides: Any) -> Picture:
    with drawn(height=2.5 * len(sides), rows=len(sides)) as (figure, grid):
        for axes, (side, rows) in zip(grid[:, 0], sides, strict=True):
            values = [100 * one.error for one in rows]
            axes.bar(range(len(rows)), values, color="#4c78a8", edgecolor="black", linewidth=0.5)
            axes.set_title(f"quantization error of {side}")
            axes.set_ylabel("% of the power")
            axes.grid(alpha=0.3, axis="y")
            _name_layers(axes, [one.name for one in rows])
        return Picture("errors", png(figure), "Quantization error of every layer, a bar each.")


def _codes(sides: Any) -> Picture:
    with drawn(height=2.5 * len(sides), rows=len(sides)) as (figure, grid):
        for axes, (side, rows) in zip(grid[:, 0], sides, strict=True):
            bottom = np.zeros(len(rows))
            most = max(len(one.shares) for one in rows)
            for k in range(most):
                values = np.array([100 * (one.shares + [0.0] * most)[k] for one in rows])
                shade = _shade(k, most)
                axes.bar(
                    range(len(rows)),
                    values,
                    bottom=bottom,
                    color=shade,
                    edgecolor="black",
                    linewidth=0.4,
                )
                bottom += values
            axes.set_title(f"how often {side} take each level")
            axes.set_ylabel("% of the values")
            axes.set_ylim(0, 100)
            _name_layers(axes, [one.name for one in rows])
        return Picture("codes", png(figure), "Shares of the levels in every layer, stacked bars.")


def _shade(level: int, levels: int) -> str:
    """Of a level, light to dark."""
    return str(round(0.95 - 0.85 * level / max(1, levels - 1), 3))
