"""The codes of a network's low-bit weights, and where they are in a graph.

Graphs of several widths and bits can store the codes of the costliest setting alone. Fewer bits are
the first digits of a code, and a narrower layer has the first channels:

    code_k[o, i] = code_K[o, i] >> (K - k)

as levels of nested bases ascend with their digits (`quantizers.nested`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from rsquant.errors import ExportError
from rsquant.export.graph import ROOT
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class LayerCodes:
    """Which level each weight of a layer takes. The same at all resolutions.

    Attributes:
        layer: path of the layer in the network's body.
        bits: K, 1 to 4.
        codes: shape of the weight, 0 to 2**K - 1; ascending levels.
        stored: the layer in another setting, whose codes a graph stores in their place.
    """

    layer: str
    bits: int
    codes: Codes
    stored: LayerCodes | None = None

    def within(self, other: LayerCodes) -> bool:
        """Whether these codes are first digits and first channels of those of another setting."""
        if self.bits > other.bits or self.codes.ndim != other.codes.ndim:
            return False
        part = other.codes[tuple(slice(0, n) for n in self.codes.shape)]
        return np.array_equal(part >> (other.bits - self.bits), self.codes)

    def table(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """(O, 2**K) float32: the value that each code of each output channel stands for.

        A code that no weight of its channel takes has the value 0.

        Args:
            weight: shape of `codes`; what BatchNorm scaled included, so one value per code.
        Raises:
            ExportError: two weights of one channel have the same code and differ.
        """
        rows, codes = weight.reshape(len(weight), -1), self.codes.reshape(len(weight), -1)
        table = np.zeros((len(rows), 2**self.bits), np.float32)
        table[np.arange(len(rows))[:, None], codes] = rows
        if not np.array_equal(np.take_along_axis(table, codes, 1), rows):
            raise ExportError(
                f"{self.layer}: its weights are not {2**self.bits} values per output channel, so "
                "they cannot be stored as codes; `form='float'` writes them out"
            )
        return table


@torch.no_grad()
def layer_codes(model: SwitchableNetwork) -> list[LayerCodes]:
    """The codes of every low-bit layer of a network, each layer once, in order of their paths."""
    found = []
    for name, layer in model.body.named_modules():
        if not isinstance(layer, QUANTIZED_LAYERS) or layer.weight_quantizer is None:
            continue
        quantizer = layer.weight_quantizer
        codes = quantizer.codes(layer.weight).to("cpu", torch.uint8).numpy()
        found.append(LayerCodes(name, (quantizer.levels().shape[-1] - 1).bit_length(), codes))
    return found


def stored_as(layers: list[LayerCodes], whole: list[LayerCodes]) -> list[LayerCodes]:
    """The layers, to be stored as those of the costliest setting where they are part of it."""
    known = {one.layer: one for one in whole}
    return [
        replace(one, stored=known[one.layer])
        if one.layer in known and one.within(known[one.layer])
        else one
        for one in layers
    ]


_ENDS = ("weight", "1.weight")


def find_weights(
    graph: onnx.GraphProto, layers: list[LayerCodes]
) -> dict[str, tuple[LayerCodes, NDArray[np.float32]]]:
    """Initializers that are low-bit weights: name -> codes and values.

    Raises:
        ExportError: a layer's weights are not in the graph as they are in the layer.
    """
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    made = (tensor for tensor in graph.initializer if not tensor.name.startswith(ROOT))
    unnamed = {math.prod(tensor.dims) for tensor in made}
    found = {}
    for layer in layers:
        # A switchable graph has the body one level down; behind a quantizer of its own input a
        # layer is the second of two.
        names = [f"{ROOT}{body}{layer.layer}.{end}" for body in ("", "body.") for end in _ENDS]
        name = next((n for n in names if n in initializers), None)
        if name is None and layer.codes.size not in unnamed:
            # It is not used, or the exporter stores it once with another layer's equal weights.
            continue
        if name is None or tuple(initializers[name].dims) != layer.codes.shape:
            raise ExportError(
                f"{layer.layer}: its weights have another form in the graph, so they cannot be "
                "stored as codes; `form='float'` writes them out"
            )
        found[name] = (layer, numpy_helper.to_array(initializers[name]))
    return found
