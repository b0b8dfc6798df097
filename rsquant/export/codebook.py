"""Low-bit weights stored as codes and a table, decoded in the graph.

    weight[o, ...] = table[o, code[o, ...]]

onnxruntime computes that once, when it loads the file, and then runs the same float convolutions
as it would on plain weights. BatchNorm scales output channels, so it changes tables and leaves
codes alone: the codes are the same tensor at every resolution.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from rsquant.export.codes import Codes, LayerCodes, find_weights
from rsquant.export.edit import Editor
from rsquant.export.graph import set_opset


def store_as_codes(proto: onnx.ModelProto, layers: list[LayerCodes], compat: bool) -> None:
    """Replace the low-bit weights of a graph by codes and tables, in place.

    Args:
        compat: codes are packed in bytes (opset 21), which older engines read; else 2-bit or
            4-bit tensors.
    Raises:
        ExportError: a layer's weights cannot be found in the graph, or are not low-bit.
    """
    decoder = Decoder(proto, compat)
    for name, (layer, weight) in find_weights(proto.graph, layers).items():
        decoder.decode(name, name, layer, layer.table(weight))
    decoder.finish()


class Decoder:
    """Adds to a graph the nodes that decode weights.

    Args:
        proto: changed in place.
        compat: see `store_as_codes`.
    """

    def __init__(self, proto: onnx.ModelProto, compat: bool) -> None:
        self.proto = proto
        self.compat = compat
        self.opset = 20
        self.editor = Editor(proto.graph)
        self.replaced: set[str] = set()

    def decode(self, name: str, weight: str, layer: LayerCodes, table: NDArray[np.generic]) -> None:
        """Make a value from the codes of weights that are an initializer so far, and a table.

        Args:
            name: of the value, shape of the weights and type of the table.
            weight: name of the initializer, which is removed.
            table: (O, L) of any type that Gather takes.
        """
        if weight not in self.replaced:
            self._rows(weight, layer)
            self.replaced.add(weight)
        self.editor.constant(f"{name}/table", table.reshape(-1))
        self.editor.node("Gather", [f"{name}/table", f"{weight}/rows"], name, axis=0)

    def _rows(self, weight: str, layer: LayerCodes) -> None:
        """Where each weight's value lies in a flattened table: code + L * channel."""
        codes, offsets = f"{weight}/codes", f"{weight}/offsets"
        stored = layer.stored or layer
        if self.compat:
            self._unpacked(codes, stored)
        else:
            # There is no 1-bit type, and none of 3.
            width = 2 if stored.bits <= 2 else 4
            kind = TensorProto.UINT2 if width == 2 else TensorProto.UINT4
            raw = pack_codes(stored.codes, width).tobytes()
            tensor = TensorProto(name=codes, data_type=kind, dims=stored.codes.shape, raw_data=raw)
            self.proto.graph.initializer.append(tensor)
            self.opset = max(self.opset, 25 if width == 2 else 21)
        starts = np.arange(len(layer.codes), dtype=np.int32) * 2**layer.bits
        self.editor.constant(offsets, starts.reshape(-1, *(1,) * (layer.codes.ndim - 1)))
        indices = self.editor.node("Cast", [codes], f"{weight}/indices", to=TensorProto.INT32)
        if layer.codes.shape != stored.codes.shape:
            first = np.zeros(layer.codes.ndim, np.int64)
            begin = self.editor.constant(f"codes/first_{layer.codes.ndim}", first)
            end = self.editor.constant(f"{weight}/shape", np.array(layer.codes.shape, np.int64))
            indices = self.editor.node("Slice", [indices, begin, end], f"{weight}/part")
        if layer.bits < stored.bits:
            power = np.array(2 ** (stored.bits - layer.bits), np.int32)
            divisor = self.editor.constant(f"codes/divisor_{power}", power)
            indices = self.editor.node("Div", [indices, divisor], f"{weight}/digits")
        self.editor.node("Add", [indices, offsets], f"{weight}/rows")

    def finish(self) -> None:
        """Put what was added into the graph, before all that uses it."""
        graph = self.proto.graph
        kept = [tensor for tensor in graph.initializer if tensor.name not in self.replaced]
        nodes = list(graph.node)
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(kept)
        graph.node.extend([*self.editor.nodes, *nodes])
        set_opset(self.proto, 21 if self.compat else self.opset)

    def _unpacked(self, name: str, layer: LayerCodes) -> None:
        """Codes from bytes, in plain nodes: OpenVINO reads no functions of a file's own."""
        editor = self.editor
        width = 4 if layer.bits == 3 else layer.bits
        editor.constant(f"{name}/bytes", pack_codes(layer.codes, width))
        editor.constant(f"{name}/shape", np.array(layer.codes.shape, np.int64))
        shifts = editor.constant(f"codes/shifts_{width}", np.arange(0, 8, width, dtype=np.uint8))
        mask = editor.constant(f"codes/mask_{width}", np.array(2**width - 1, np.uint8))
        last = editor.constant("codes/last", np.array([-1], np.int64))
        editor.node("Unsqueeze", [f"{name}/bytes", last], f"{name}/column")
        editor.node("BitShift", [f"{name}/column", shifts], f"{name}/shifted", direction="RIGHT")
        editor.node("BitwiseAnd", [f"{name}/shifted", mask], f"{name}/masked")
        flat = editor.node("Reshape", [f"{name}/masked", last], f"{name}/flat")
        if layer.codes.size % (8 // width):
            start = editor.constant("codes/start", np.array([0], np.int64))
            editor.constant(f"{name}/count", np.array([layer.codes.size], np.int64))
            flat = editor.node("Slice", [flat, start, f"{name}/count"], f"{name}/used")
        editor.node("Reshape", [flat, f"{name}/shape"], name)


def pack_codes(codes: Codes, width: int) -> NDArray[np.uint8]:
    """Codes to bytes, the first code in the lowest bits, as ONNX packs UINT2 and UINT4.

    Args:
        codes: any shape, below 2**width; the last byte is filled up with zeros.
        width: bits per code: 1, 2 or 4.
    """
    per_byte = 8 // width
    flat = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    flat[: codes.size] = codes.reshape(-1)
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    return np.bitwise_or.reduce(flat.reshape(-1, per_byte) << shifts, axis=1)
