"""The ONNX graph of an integer network: the same integers, by construction.

Each layer is the operator whose definition it shares (docs/integer.md):

    to bytes, to levels   QLinearConv: a float32(n + B), rounded, halves to even
    map of bytes          the same, one weight of 64 per channel
    averages              the same, weights of 1
    sum                   DequantizeLinear, Add, QuantizeLinear, steps of 1: exact in float32, too
    levels                the bytes of a QLinearConv compared with integers (`staircase`)
    resized map of bytes  products by constant matrices, exact in float32 (`resizing`)
    classifier            MatMulInteger, the bias added in int32, one float32 product
    head of maps          ConvInteger, one float32 product and one float32 sum

All are operators of ONNX itself, so whatever engine computes them as they are defined gives these
codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from rsquant.errors import ExportError
from rsquant.export.codebook import Decoder
from rsquant.export.codes import LayerCodes, layer_codes
from rsquant.export.edit import Editor
from rsquant.export.graph import IMAGES, LOGITS, OPSET
from rsquant.export.int8.levels import Levels
from rsquant.export.int8.staircase import Bytes as Coded
from rsquant.export.int8.staircase import add_staircase
from rsquant.export.map_sizes import Sizes, sizes_of
from rsquant.export.qlinear import QLinear, window_of
from rsquant.export.resizing import add_resize
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.integer.endings import IntegerHead, IntegerLinear
from rsquant.nn.integer.exact import Float64Array, step_of, worth
from rsquant.nn.integer.layers import (
    GlobalAverage,
    IntegerAverage,
    IntegerConv,
    IntegerImageConv,
    IntegerMap,
    IntegerSum,
)
from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packed.integers import (
    BYTE_WEIGHT,
    average,
    into_bytes,
    into_levels,
    multiplier_and_bias,
)
from rsquant.settings import Blend

# A graph's bytes are unsigned: 0 to 255.
_TOP = 255
# Of a head's weights, which are unsigned in the file.
_WEIGHT_ZERO = 128
# In evaluation.
_IDLE = (nn.Dropout, nn.Dropout2d, StochasticDepth, nn.Identity)
# What only moves values, or nothing, may run more than once.
_STATELESS = (nn.MaxPool2d, nn.Flatten, *_IDLE)


@dataclass(frozen=True)
class IntegerGraph:
    """What was made of a network, and where its layers are in it.

    Attributes:
        proto: the graph.
        values: by name of a module in the network's body, its result as bytes: (byte - zero) * unit
            is the code.
    """

    proto: onnx.ModelProto
    values: dict[str, Coded]


def to_integer_onnx(
    model: SwitchableNetwork, resolution: int, compat: bool = False
) -> IntegerGraph:
    """One size of an integer network: images (N, 3, R, R), normalised, to its logits.

    Args:
        model: on the CPU, in evaluation; `spec.integer`.
        compat: see `codebook.store_as_codes`.
    Raises:
        ExportError: a layer that the graph cannot have.
    """
    with torch.no_grad(), model.at(resolution):
        return _Builder(model, resolution, sizes_of(model, resolution), compat).result()


class _Builder:
    """A graph of a network's modules, in the order in which torch.fx has them."""

    def __init__(
        self,
        model: SwitchableNetwork,
        resolution: int,
        sizes: Sizes,
        compat: bool,
    ) -> None:
        self.body: Any = model.body
        self.mean, self.std = model.spec.mean, model.spec.std
        self.rows: Blend = model.active.rows
        self.sizes, self.shapes, self.compat = sizes, sizes.maps, compat
        graph = helper.make_graph(
            [],
            "network",
            [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["N", 3, *[resolution] * 2])],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", *sizes.logits])],
        )
        self.proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        self.decoder = Decoder(self.proto, compat)
        self.codes = {layer.layer: layer for layer in layer_codes(model)}
        self.editor = Editor(self.proto.graph)
        self.qlinear = QLinear(self.editor, self.decoder)
        self.values: dict[str, Coded] = {}
        self.called: set[str] = set()
        # None: a size, which the graph has as constants.
        self.at: dict[fx.Node, Coded | str | None] = {}

    def result(self) -> IntegerGraph:
        for node in self.body.graph.nodes:
            self.at[node] = self._node(node)
        self.proto.graph.node.extend(self.editor.nodes)
        self.decoder.finish()
        return IntegerGraph(self.proto, self.values)

    def _node(self, node: fx.Node) -> Coded | str | None:
        if node.op == "placeholder":
            return IMAGES
        if node.op == "output":
            (result,) = node.all_input_nodes
            self.editor.node("Identity", [str(self.at[result])], LOGITS)
            return LOGITS
        if node.op != "call_module":
            read = [self.at[one] for one in node.all_input_nodes]
            return self._function(node, [value for value in read if value is not None])
        # The arguments themselves: a sum may read one value twice.
        read = [self.at[one] for one in node.args if isinstance(one, fx.Node)]
        values = [value for value in read if value is not None]
        name = str(node.target)
        module = self.body.get_submodule(name)
        if name in self.called and not isinstance(module, _STATELESS):
            raise ExportError(
                f"{name}: is called twice, which has no integer form in ONNX; use `pack`"
            )
        again = f"{name}/{node.name}"
        made = self._module(again if name in self.called else name, module, values)
        self.called.add(name)
        if isinstance(made, Coded):
            self.values[name] = made
        return made

    def _function(self, node: fx.Node, values: list[Coded | str]) -> Coded | None:
        """What is between modules: sizes, and flattening, of one pixel or in front of it."""
        name = getattr(node.target, "__name__", str(node.target))
        if not values or name in ("size", "dim", "getattr"):
            return None
        x = values[0]
        if not isinstance(x, Coded) or name not in ("flatten", "view", "reshape", "squeeze"):
            raise ExportError(f"{node.name}: {name}() has no integer form in ONNX; use `pack`")
        return self._flat(x, node.name)

    def _flat(self, x: Coded, name: str) -> Coded:
        return replace(x, name=self.editor.node("Flatten", [x.name], f"{name}/flat", axis=1))

    def _module(self, name: str, module: nn.Module, inputs: list[Any]) -> Coded | str:
        x = inputs[0]
        if isinstance(module, IntegerImageConv):
            return self._image(name, module)
        if isinstance(module, IntegerConv):
            return self._conv(name, module, x)
        if isinstance(module, IntegerMap):
            return self._map(name, module, x)
        if isinstance(module, IntegerSum):
            return self._sum(name, module, *inputs)
        if isinstance(module, IntegerAverage):
            return self._average(name, module, x)
        if isinstance(module, IntegerResize):
            return self._resize(name, module, x)
        if isinstance(module, IntegerLinear):
            return self._linear(name, module, x)
        if isinstance(module, IntegerHead):
            return self._head(name, module, x)
        if isinstance(module, nn.MaxPool2d):
            return self._max(name, module, x)
        if isinstance(module, nn.Flatten):
            return self._flat(x, name)
        if isinstance(module, _IDLE):
            return x
        raise ExportError(
            f"{name}: {type(module).__name__} has no integer form in ONNX; use `pack`"
        )

    def _image(self, name: str, module: IntegerImageConv) -> Coded:
        """The pixels again, and their convolution."""
        editor = self.editor
        last = IMAGES
        per_channel = (np.array(v, np.float32).reshape(3, 1, 1) for v in (self.std, self.mean))
        std, mean = per_channel
        for op, value in (("Mul", std), ("Add", mean), ("Mul", np.float32(255))):
            constant = editor.constant(f"{name}/pixels/{len(editor.nodes)}", value)
            last = editor.node(op, [last, constant], f"{name}/pixels/{op}{len(editor.nodes)}")
        last = editor.node("Round", [last], f"{name}/pixels/rounded")
        bounds = [editor.constant(f"float/{v}", np.float32(v)) for v in (0, _TOP)]
        last = editor.node("Clip", [last, *bounds], f"{name}/pixels/clipped")
        last = editor.node("Cast", [last], f"{name}/pixels", to=TensorProto.UINT8)
        _, integers, scale = module.byte_weights()
        slope, shift = worth(scale, 1.0, module.layer.bias, module.norm, self.rows)
        pixels = Coded(last, 1.0, module.zero)
        return self._finished(name, module, module.layer, pixels, slope, shift, _int8(integers))

    def _conv(self, name: str, module: IntegerConv, x: Coded) -> Coded:
        layer = module.layer
        assert layer.weight_quantizer is not None
        form = layer.weight_quantizer.on_grid()
        step = step_of(module.source, self.rows)
        slope, shift = worth(form.scale, step, layer.bias, module.norm, self.rows)
        codes = self.codes[f"{name}.layer"]
        table = form.integers().numpy()
        return self._finished(name, module, layer, x, slope, shift, table, codes)

    def _map(self, name: str, module: IntegerMap, x: Coded) -> Coded:
        channels = self.shapes[name][0]
        scale = torch.full((channels,), 1.0 / BYTE_WEIGHT)
        slope, shift = worth(scale, step_of(module.source, self.rows), None, module.norm, self.rows)
        weights = np.full((channels, 1, 1, 1), BYTE_WEIGHT, np.int8)
        layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device="meta")
        return self._finished(name, module, layer, x, slope, shift, weights)

    def _finished(
        self,
        name: str,
        module: IntegerImageConv | IntegerConv | IntegerMap,
        layer: nn.Conv2d,
        x: Coded,
        slope: Float64Array,
        shift: Float64Array,
        weights: NDArray[Any],
        codes: LayerCodes | None = None,
    ) -> Coded:
        """A convolution of bytes, rounded to bytes or levels.

        Args:
            weights: int8 in the layer's shape; (O, L) with `codes`.
        """
        out, window = module.out, window_of(name, layer, self.shapes[name][1:])
        if isinstance(out, Bytes):
            step = out.scale.at(self.rows)
            a, bias = into_bytes(slope, shift, step, out.low < 0)
            y = self.qlinear.convolution(name, x, weights, a, bias, out.zero, window, codes)
            return Coded(self._limited(y, out, step, name), 1.0, out.zero)
        form = out.on_grid()
        step, levels = float(form.scale), [int(v) for v in form.integers()]
        a, bias = into_levels(slope, shift, step)
        bounds = [one + two for one, two in pairwise(levels)]
        # Behind a ReLU no byte is below 0, so bounds below it are always exceeded.
        zero = 0 if module.relu or min(bounds) >= 0 else 128
        clip = module.clip
        never = [clip is not None and clip <= 0.5 * step * bound for bound in bounds]
        steps = [_TOP if no else bound + zero for bound, no in zip(bounds, never, strict=True)]
        y = self.qlinear.convolution(name, x, weights, a, bias, zero, window, codes)
        return add_staircase(
            self.editor, y, steps, Levels(tuple(levels), 1.0), f"{name}/levels", self.compat
        )

    def _limited(self, y: str, out: Bytes, step: float, name: str) -> str:
        """Bytes below what a ReLU6 leaves."""
        high = out.high(step) + out.zero
        if high >= _TOP:
            return y
        return self.editor.node(
            "Clip", [y, self.qlinear.byte(0), self.qlinear.byte(high)], f"{name}/clipped"
        )

    def _sum(self, name: str, module: IntegerSum, x: Coded, y: Coded) -> Coded:
        editor, out = self.editor, module.out
        one = editor.constant("one", np.float32(1))
        parts = [
            editor.node(
                "DequantizeLinear", [v.name, one, self.qlinear.byte(v.zero)], f"{name}/part_{i}"
            )
            for i, v in enumerate((x, y))
        ]
        total = editor.node("Add", parts, f"{name}/total")
        result = editor.node(
            "QuantizeLinear", [total, one, self.qlinear.byte(out.zero)], f"{name}/sum"
        )
        step = out.scale.at(self.rows)
        return Coded(self._limited(result, out, step, name), 1.0, out.zero)

    def _average(self, name: str, module: IntegerAverage, x: Coded) -> Coded:
        pool, out = module.pool, module.out
        channels, height, width = self.shapes[name]
        whole = isinstance(pool, GlobalAverage)
        sides = (height, width) if whole else _pair(pool.kernel_size)
        pixels = pool.sums(torch.zeros(1, 1, height, width))[1]
        step = out.scale.at(self.rows)
        a = average(step_of(module.source, self.rows), step, pixels)
        unit = round(x.scale)
        window: dict[str, Any] = {"kernel_shape": list(sides), "group": channels}
        if not whole:
            window |= {"strides": list(_pair(pool.stride)), "pads": [*_pair(pool.padding)] * 2}
        weights = np.full((channels, 1, *sides), unit, np.int8)
        self.editor.constant(f"{name}/weights", weights)
        y = self.qlinear.node(name, x, a, None, out.zero, window)
        value = Coded(self._limited(y, out, step, name), 1.0, out.zero)
        return self._flat(value, name) if whole and not pool.keep else value

    def _linear(self, name: str, module: IntegerLinear, x: Coded) -> str:
        editor = self.editor
        integers, scale = module.byte_weights()
        step = step_of(module.source, self.rows)
        a, bias = multiplier_and_bias(*worth(scale, step, module.layer.bias, None, self.rows))
        weights = editor.constant(f"{name}/weights", _int8(integers).T.copy())
        names = [x.name, weights, self.qlinear.byte(x.zero)]
        n = self._times(editor.node("MatMulInteger", names, f"{name}/products"), x, name)
        n = editor.node("Add", [n, editor.constant(f"{name}/B", bias)], f"{name}/biased")
        n = editor.node("Cast", [n], f"{name}/float", to=TensorProto.FLOAT)
        return editor.node("Mul", [n, editor.constant(f"{name}/a", a)], f"{name}/logits")

    def _head(self, name: str, module: IntegerHead, x: Coded) -> str:
        editor, layer = self.editor, module.layer
        integers, scale = module.byte_weights()
        # Unsigned: onnxruntime 1.31 takes 31 ms for 256 channels of 56 x 56, 3x3, to 40 classes
        # where weights of a ConvInteger are int8, and 5 where they are uint8 (one thread, Zen 4).
        weights = editor.constant(f"{name}/weights", _unsigned(integers))
        names = [x.name, weights, self.qlinear.byte(x.zero), self.qlinear.byte(_WEIGHT_ZERO)]
        window = window_of(name, layer, self.shapes[name][1:])
        n = self._times(editor.node("ConvInteger", names, f"{name}/products", **window), x, name)
        n = editor.node("Cast", [n], f"{name}/float", to=TensorProto.FLOAT)
        a, b = (
            value.astype(np.float32).reshape(-1, 1, 1)
            for value in worth(
                scale, step_of(module.source, self.rows), layer.bias, None, self.rows
            )
        )
        n = editor.node("Mul", [n, editor.constant(f"{name}/a", a)], f"{name}/scaled")
        return editor.node("Add", [n, editor.constant(f"{name}/b", b)], f"{name}/logits")

    def _times(self, n: str, x: Coded, name: str) -> str:
        """Sums of products with bytes as sums of products with codes, int32."""
        if (unit := round(x.scale)) == 1:
            return n
        factor = self.editor.constant(f"word/{unit}", np.int32(unit))
        return self.editor.node("Mul", [n, factor], f"{name}/times_{unit}")

    def _resize(self, name: str, module: IntegerResize, x: Coded) -> Coded:
        shape = self.shapes[name]
        taps = module.taps(shape[1:], self.sizes.resized[name])
        return replace(x, name=add_resize(self.editor, x.name, shape, taps, name))

    def _max(self, name: str, module: nn.MaxPool2d, x: Coded) -> Coded:
        y = self.editor.node(
            "MaxPool",
            [x.name],
            f"{name}/largest",
            kernel_shape=list(_pair(module.kernel_size)),
            strides=list(_pair(module.stride)),
            pads=[*_pair(module.padding)] * 2,
            dilations=list(_pair(module.dilation)),
            ceil_mode=int(module.ceil_mode),
        )
        return replace(x, name=y)


def _int8(integers: Tensor) -> NDArray[np.int8]:
    return integers.to(torch.int8).numpy()


def _unsigned(integers: Tensor) -> NDArray[np.uint8]:
    return (integers + _WEIGHT_ZERO).to(torch.uint8).numpy()


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
