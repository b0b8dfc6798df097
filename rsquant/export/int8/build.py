"""A graph on bytes: what onnxruntime runs as 8-bit integer convolutions.

Every convolution reads bytes, x = s_x (byte - zero), has int8 weights, one scale s_o per output
channel, and a 32-bit bias in units of s_x s_o, and rounds its sum to bytes again; written as
DequantizeLinear and QuantizeLinear around float operators, which onnxruntime fuses. Low-bit
weights are stored as codes with a table of int8 per channel, which is decoded on loading.

Activations that the network quantizes keep their levels. Where a convolution alone feeds a
quantizer, it rounds so that a byte says exactly how many thresholds the sum exceeds; a few
operations on bytes then give the level (`staircase`). What the network leaves in float32 (sums of
residual branches; everything, where only weights are low-bit) is rounded to 256 values over the
range that calibration saw.

The convolution that reads the image stays in float32. Every 2-bit code of the network hangs on it:
with 8-bit weights there the logits of a trained ResNet-18 moved by 8.1 % at 96 pixels and 14.7 % at
32 (root mean square), with float32 by 6.6 and 12.5 %. It is 7 % of the work.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from rsquant.export.chains import Chain
from rsquant.export.codebook import Decoder
from rsquant.export.codes import LayerCodes, find_weights
from rsquant.export.edit import Editor, drop_unused
from rsquant.export.graph import IMAGES
from rsquant.export.int8.levels import Levels, integer_levels, positions
from rsquant.export.int8.points import Int8Graph, Point, Rounded
from rsquant.export.int8.prepare import ROUNDING, norms_to_convolutions, rounded_values
from rsquant.export.int8.ranges import Ranges, value_ranges
from rsquant.export.int8.staircase import Bytes, add_staircase
from rsquant.export.int8.walk import ACTIVATIONS, Feeder, Graph
from rsquant.export.int8.weights import IntWeights, round_weights, smallest_scale, weight_limit

# Operators that move bytes about, or take the largest.
_MOVING = (
    "MaxPool",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Identity",
)
# Behind these in float32, onnxruntime would move a rounding forward.
_APART = ("MaxPool", "AveragePool", "ConvTranspose")
# Span of integer levels. Bytes reach 190 at most, where two bits are raised by one of their steps.
_LEVEL_LIMIT = 127


def to_int8(
    proto: onnx.ModelProto,
    layers: list[LayerCodes],
    calibration: Tensor,
    compat: bool = False,
) -> Int8Graph:
    """The graph on bytes of a float graph; that one is not changed.

    Args:
        proto: from `graph.to_onnx`.
        layers: the codes of its low-bit weights.
        calibration: (N, 3, R, R) float32, normalised: images whose ranges activations have.
        compat: see `codebook.store_as_codes`.
    Raises:
        ExportError: low-bit weights cannot be found in the graph.
    """
    source = onnx.ModelProto()
    source.CopyFrom(proto)
    norms_to_convolutions(source)
    ranges = value_ranges(source, rounded_values(source.graph), calibration)
    return _Builder(source, layers, ranges, compat).build()


class _Builder:
    """Goes through a float graph once, in the order it runs, and writes the one on bytes."""

    def __init__(
        self, source: onnx.ModelProto, layers: list[LayerCodes], ranges: Ranges, compat: bool
    ) -> None:
        self.graph = Graph(source.graph)
        self.coded = find_weights(source.graph, layers)
        self.ranges, self.compat = ranges, compat
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(source)
        self.editor = Editor(self.proto.graph)
        self.decoder = Decoder(self.proto, compat)
        self.result = Int8Graph(self.proto, source)
        # What is known of each value of the float graph: its bytes, or that it is there in float32.
        self.bytes: dict[str, Bytes] = {}
        self.floats = {IMAGES}
        self.done: set[str] = set()
        self.last = self._last()

    def build(self) -> Int8Graph:
        fed: dict[str, tuple[Chain, Feeder]] = {}
        for chain in self.graph.chains.values():
            feeder = self.graph.feeder(chain)
            if feeder is not None and feeder.node.input[0] != IMAGES:
                fed[feeder.node.output[0]] = chain, feeder
        in_chains = {n: c for c in self.graph.chains.values() for n in c.nodes}
        for node in self.graph.graph.node:
            name = node.output[0]
            if name in self.done:
                continue
            if name in fed:
                self.feeder(*fed[name])
            elif name in in_chains:
                if name == in_chains[name].output:
                    self.quantizer(in_chains[name])
            elif self.graph.weights(node) is not None and node.input[0] != IMAGES:
                self.weighted(node)
            elif name in self.last:
                self.plain(node)
            elif _rounds(node) and all(n in self.bytes for n in node.input):
                inputs = [self.float_of(n) for n in node.input]
                self.rounded(node, self.copied(node, inputs, f"{name}/sums"))
            elif node.op_type in _MOVING and node.input[0] in self.bytes:
                self.bytes[name] = self.moved(node, self.bytes[node.input[0]])
            else:
                self.plain(node)
        return self.finish()

    def _last(self) -> set[str]:
        """Outputs, and what they alone are made of behind the last convolutions: float32."""
        found, open_ = set(), list(self.graph.outputs)
        while open_:
            name = open_.pop()
            found.add(name)
            node = self.graph.producer.get(name)
            if node is not None and node.op_type in (*ROUNDING, *_MOVING, *ACTIVATIONS):
                alone = (n for n in node.input if self.graph.only_consumer(n) is not None)
                open_ += [n for n in alone if n in self.graph.producer]
        return found

    # One kind of node each.

    def plain(self, node: onnx.NodeProto) -> None:
        """A node in float32, as it is."""
        for name in node.input:
            if name not in self.floats:
                self.float_of(name)
        self.editor.nodes.append(node)
        self.floats.update(node.output)

    def copied(self, node: onnx.NodeProto, inputs: list[str], output: str) -> str:
        """The same operator with other inputs and another output; returns that."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        del new.input[:]
        new.input.extend(inputs)
        new.output[0] = new.name = output
        self.editor.nodes.append(new)
        return output

    def moved(self, node: onnx.NodeProto, source: Bytes) -> Bytes:
        """A node that reads bytes and gives bytes of the same kind."""
        name = self.copied(node, [source.name, *node.input[1:]], f"{node.output[0]}/bytes")
        return Bytes(name, source.scale, source.zero, source.top)

    def weighted(self, node: onnx.NodeProto) -> None:
        """A convolution or linear layer whose result is rounded, the network's logits excepted."""
        sums = self.sums(node, 0.0)
        if sums in self.last:
            self.floats.add(sums)
        else:
            self.rounded(node, sums)

    def feeder(self, chain: Chain, feeder: Feeder) -> None:
        """A convolution that rounds to how many thresholds it exceeds, and the quantizer.

        The step o and the shift are such that threshold j lies halfway between two bytes, n_j and
        n_j + 1:    (t_j - t_0 + o / 2) / o = n_j + 1/2
        """
        levels = self.levels(chain)
        exact = chain.thresholds.astype(np.float64)
        # Beyond what activations let through, a threshold is exceeded always or never.
        live = (exact >= feeder.low) & (exact < feeder.high)
        places, step = positions(exact[live], levels)
        first = exact[live][0] if live.any() else 0.0
        shift = step / 2 - first
        name = feeder.node.output[0]
        sums = self.sums(feeder.node, shift)
        current = self.quantize(sums, Bytes(f"{name}/bytes", step, 0))
        for node in feeder.between:
            self.done.add(node.output[0])
            if node.op_type == "MaxPool":
                current = self.moved(node, current)
        thresholds = np.where(exact < feeder.low, -1, 255)
        thresholds[live] = places
        used = exact.copy()
        used[live] = first + step * places
        self.level(chain, current.name, thresholds, used, levels)
        self.done.update(chain.nodes)

    def quantizer(self, chain: Chain) -> None:
        """A quantizer of anything else: of bytes that calibration gave, or of float32."""
        source = self.bytes.get(chain.source)
        exact, levels = chain.thresholds.astype(np.float64), self.levels(chain)
        if source is not None:
            thresholds = np.floor(exact / source.scale + source.zero).clip(-1, 255).astype(int)
            self.level(chain, source.name, thresholds, exact, levels, of_bytes=True)
            return
        places, step = positions(exact, levels)
        shift = self.editor.constant(f"{chain.output}/shift", np.float32(step / 2 - exact[0]))
        moved = self.editor.node("Add", [chain.source, shift], f"{chain.output}/shifted")
        codes = self.quantize(moved, Bytes(f"{chain.output}/bytes", step, 0))
        self.level(chain, codes.name, places, exact[0] + step * places, levels)

    def level(
        self,
        chain: Chain,
        source: str,
        thresholds: NDArray[np.int_],
        used: NDArray[np.float64],
        levels: Levels,
        of_bytes: bool = False,
    ) -> None:
        found = add_staircase(
            self.editor, source, [int(t) for t in thresholds], levels, chain.output, self.compat
        )
        self.bytes[chain.output] = found
        self.result.points.append(
            Point(chain.output, chain.source, found, used, levels, chain, of_bytes)
        )

    # What these are made of.

    def levels(self, chain: Chain) -> Levels:
        """Integer levels of a quantizer."""
        return integer_levels(chain.levels, _LEVEL_LIMIT)

    def sums(self, node: onnx.NodeProto, shift: float) -> str:
        """A convolution of bytes: float32 in the file, integers when onnxruntime has fused it."""
        name = node.output[0]
        weight = self.graph.weights(node)
        assert weight is not None
        source = self.bytes_of(node.input[0])
        bias = self.graph.bias(node)
        total = np.full(len(weight), shift)
        if bias is not None:
            total += bias
        key = str(node.input[1])
        rounded = self.weight(key, weight, source, total)
        scale = rounded.scale * np.float32(source.scale)
        integers = np.rint(total / scale.astype(np.float64)).astype(np.int32)
        inputs = [self.float_of(node.input[0]), self.decoded(name, key, rounded)]
        if integers.any():
            codes = self.editor.constant(f"{name}/bias/integers", integers)
            worth = self.editor.constant(f"{name}/bias/scale", scale)
            inputs.append(
                self.editor.node("DequantizeLinear", [codes, worth], f"{name}/bias", axis=0)
            )
        output = name if name in self.last else f"{name}/sums"
        self.copied(node, inputs, output)
        step = scale.astype(np.float64)
        self.remember(node, key, rounded, integers, shift, step)
        return output

    def weight(
        self, key: str, weight: NDArray[np.float32], source: Bytes, bias: NDArray[np.float64]
    ) -> IntWeights:
        single = weight[0].size == 1  # one product a channel: nothing to saturate
        limit = 127 if single else weight_limit(source.top)
        smallest = smallest_scale(bias, source.scale)
        if key in self.coded:
            # Rounding the table rounds the weights.
            return round_weights(self.coded[key][0].table(weight), limit, smallest)
        return round_weights(weight, limit, smallest)

    def decoded(self, name: str, key: str, rounded: IntWeights) -> str:
        """Name of the weights in float32, from integers or from codes."""
        integers = f"{name}/weight/integers"
        if key in self.coded:
            self.decoder.decode(integers, key, self.coded[key][0], rounded.integers)
        else:
            self.editor.constant(integers, rounded.integers)
        scale = self.editor.constant(f"{name}/weight/scale", rounded.scale)
        zeros = np.zeros(len(rounded.scale), np.int8)
        zero = self.editor.constant(f"zeros/{len(zeros)}", zeros)
        return self.editor.node(
            "DequantizeLinear", [integers, scale, zero], f"{name}/weight", axis=0
        )

    def remember(
        self,
        node: onnx.NodeProto,
        key: str,
        rounded: IntWeights,
        integers: NDArray[np.int32],
        shift: float,
        step: NDArray[np.float64],
    ) -> None:
        """Let the reference compute with what the integers stand for."""
        weight, name = rounded.values(), node.output[0]
        if key in self.coded:
            codes = self.coded[key][0].codes
            rows = np.take_along_axis(weight, codes.reshape(len(weight), -1), 1)
            weight = rows.reshape(codes.shape)
        bias = integers * step - shift
        scale = rounded.scale.astype(np.float64)
        self.result.rounded[name] = Rounded(weight, bias, scale, step, np.abs(integers), shift)
        del node.input[1:]
        node.input.extend([f"{name}/reference/weight", f"{name}/reference/bias"])

    def rounded(self, node: onnx.NodeProto, sums: str) -> None:
        """Round a node's result, `sums`, to bytes, behind the activation that alone reads it."""
        activation = self.graph.activation_behind(node)
        value = (activation or node).output[0]
        if activation is not None:
            # Bytes of the activation's range end where it bounds.
            self.done.add(value)
        found = self.quantize(sums, self.range_bytes(value))
        self.bytes[value] = found
        self.result.points.append(Point(value, value, found))

    def range_bytes(self, value: str) -> Bytes:
        low, high = self.ranges[value]
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32((high - low) / 255)) or 1.0
        return Bytes(f"{value}/bytes", scale, int(np.rint(-low / scale).clip(0, 255)))

    def quantize(self, name: str, to: Bytes, scale: str | None = None) -> Bytes:
        """Round a value of the new graph that is in float32, with another scale if need be."""
        own, zero = self.parameters(to)
        self.editor.node("QuantizeLinear", [name, scale or own, zero], to.name)
        return to

    def parameters(self, bytes_: Bytes) -> list[str]:
        return [
            self.editor.constant(f"{bytes_.name}/scale", np.float32(bytes_.scale)),
            self.editor.constant(f"{bytes_.name}/zero", np.uint8(bytes_.zero)),
        ]

    def bytes_of(self, name: str) -> Bytes:
        """A value as bytes, rounded now if it is in float32."""
        if name not in self.bytes:
            found, source, scale = self.range_bytes(name), name, None
            if name in self.graph.producer and self.graph.producer[name].op_type in _APART:
                # onnxruntime rounds before a max-pooling rather than behind it, and takes 3 ms for
                # one of bytes whose layout is not its own (56x56, 64 channels) where float32 takes
                # 0.1. It would also round a transposed convolution's weights (1.31), and pool bytes
                # as `_rounds` says. It does not look through a product, and this one is exact.
                two = self.editor.constant("two", np.float32(2))
                source = self.editor.node("Mul", [name, two], f"{name}/doubled")
                scale = self.editor.constant(f"{name}/doubled/scale", np.float32(2 * found.scale))
            self.quantize(source, found, scale)
            self.bytes[name] = found
            self.result.points.append(Point(name, name, found))
        return self.bytes[name]

    def float_of(self, name: str) -> str:
        """A value in float32, under its own name."""
        if name in self.bytes:
            real = f"{name}/float" if name in self.floats else name
            if real not in self.floats:
                source = self.bytes[name]
                inputs = [source.name, *self.parameters(source)]
                self.editor.node("DequantizeLinear", inputs, real)
                self.floats.add(real)
            return real
        return name

    def finish(self) -> Int8Graph:
        graph = self.proto.graph
        del graph.node[:]
        graph.node.extend(self.editor.nodes)
        self.decoder.finish()
        drop_unused(graph)
        reference = self.result.reference.graph
        for name, rounded in self.result.rounded.items():
            for what, value in (("weight", rounded.weight), ("bias", rounded.bias)):
                tensor = numpy_helper.from_array(
                    value.astype(np.float32), f"{name}/reference/{what}"
                )
                reference.initializer.append(tensor)
        drop_unused(reference)
        return self.result


def _rounds(node: onnx.NodeProto) -> bool:
    """Whether a node's result is rounded to bytes where all it reads is bytes."""
    given = {a.name: a.i for a in node.attribute}
    # onnxruntime's pooling of bytes counts padding beyond the ceiling, that of float32 does not.
    if node.op_type == "AveragePool" and given.get("ceil_mode") and given.get("count_include_pad"):
        return False
    return node.op_type in ROUNDING
