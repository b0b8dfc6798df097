"""What `rsquant info RUN` tells: the layers of a network, their bits, quantizers and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from rsquant.nn.integer.endings import IntegerEnding
from rsquant.nn.integer.layers import IntegerConv, IntegerImageConv
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer, InputQuantizer, WeightQuantizer
from rsquant.report.table import aligned

# Bits of an integer network's image, sums and classifier.
BYTE = 8


@dataclass(frozen=True)
class LayerRow:
    """A Conv2d or Linear layer.

    Attributes:
        name: as patterns of --layer-bits match it.
        shape: of its weights: (O, C / groups, kernel height, kernel width) or (O, C).
        wbits, abits: of its weights and of its input; 32 is float32.
        quantizer: of its weights, else of its input; "" where both are float32.
        input_quantizer: name of the activation quantizer it reads; "" for none.
        input_kind: what that is: lq, ...
        weight_bytes: its weights as codes of that many bits, or as float32.
        widths: of a network with several widths, by width, the (O, C / groups) that it uses.
    """

    name: str
    shape: tuple[int, ...]
    wbits: int
    abits: int
    quantizer: str
    input_quantizer: str
    input_kind: str
    weight_bytes: int
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)


def layer_rows(network: SwitchableNetwork) -> list[LayerRow]:
    """All layers with weights, in the order of the network."""
    modules = dict(network.body.named_modules())
    if network.spec.integer:
        return _integer_rows(modules)
    shared: dict[str, str] = getattr(network.body, "input_quantizers", {})
    rows = []
    for name, layer in modules.items():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        own = isinstance(layer, QUANTIZED_LAYERS)
        source = f"{name}.input_quantizer" if own and layer.input_quantizer else shared.get(name)
        reads = modules.get(source) if source else None
        weights = layer.weight_quantizer if isinstance(layer, QUANTIZED_LAYERS) else None
        if isinstance(reads, InputQuantizer):  # of several numbers of bits the most
            reads = reads.in_force
        row = _row(name, layer.weight, weights, source or "", reads)
        parts = layer.parts if isinstance(layer, QUANTIZED_LAYERS) and layer.parts else {}
        rows.append(replace(row, widths={f"{width:g}": part for width, part in parts.items()}))
    return rows


def _integer_rows(modules: dict[str, nn.Module]) -> list[LayerRow]:
    """Of an integer network: what is in no other bits is in 8."""
    names = {module: name for name, module in modules.items()}
    rows = []
    for name, module in modules.items():
        if not isinstance(module, (IntegerConv, IntegerImageConv, IntegerEnding)):
            continue
        reads = None if isinstance(module, IntegerImageConv) else module.source
        weights = module.layer.weight_quantizer if isinstance(module, IntegerConv) else None
        source = "" if reads is None else names[reads]
        row = _row(name, module.layer.weight, weights, source, reads)
        wbits, abits = min(row.wbits, BYTE), min(row.abits, BYTE)
        size = -(-module.layer.weight.numel() * wbits // 8)
        rows.append(replace(row, wbits=wbits, abits=abits, weight_bytes=size))
    return rows


def _row(
    name: str, weight: Tensor, weights: WeightQuantizer | None, source: str, reads: nn.Module | None
) -> LayerRow:
    activations = reads if isinstance(reads, ActivationQuantizer) else None
    wbits = FLOAT if weights is None else weights.bits
    kind = "" if activations is None else _kind(activations)
    return LayerRow(
        name,
        tuple(weight.shape),
        wbits,
        FLOAT if activations is None else activations.bits,
        kind if weights is None else _kind(weights),
        "" if activations is None else source,
        kind,
        -(-weight.numel() * wbits // 8),
    )


def _kind(quantizer: WeightQuantizer | ActivationQuantizer) -> str:
    return quantizer.kind or type(quantizer).__name__


def layer_lines(network: SwitchableNetwork) -> list[str]:
    """A heading, a line for each layer, and the sum of their sizes."""
    rows = layer_rows(network)
    narrower = [f"{width:g}" for width in network.spec.widths[1:]]
    headings = ("layer", "weights", "W", "A", "quantizer", "input", "KB")
    cells = [(*headings, *(f"x{width}" for width in narrower))]
    for row in rows:
        kind = row.quantizer
        if row.input_kind not in ("", row.quantizer):
            kind += f", {row.input_kind}"
        shape = "x".join(map(str, row.shape))
        size = f"{row.weight_bytes / 1000:.1f}"
        source = row.input_quantizer if row.input_quantizer != f"{row.name}.input_quantizer" else ""
        parts = ["x".join(map(str, row.widths[width])) for width in narrower]
        bits = str(row.wbits), str(row.abits)
        cells.append((row.name, shape, *bits, kind, source, size, *parts))
    total = sum(row.weight_bytes for row in rows)
    spec = network.spec
    return [
        f"{spec.arch} {spec.bits_text}, quantizer {spec.quantizer}, grid {spec.grid}, "
        f"resolutions {', '.join(map(str, spec.resolutions))}",
        *aligned(cells),
        f"{len(rows)} layers, {total / 1000:,.1f} KB of weights",
    ]
