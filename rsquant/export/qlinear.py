"""QLinearConv: the operator that integer networks are made of, round(a (n + B)) + zero.

Scales in the graph are not what values are worth: inputs and outputs have a scale of 1, and a
weight's is |a|, since QLinearConv multiplies by (input scale * weight scale / output scale).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rsquant.errors import ExportError
from rsquant.export.codebook import Decoder
from rsquant.export.codes import LayerCodes
from rsquant.export.edit import Editor
from rsquant.export.int8.staircase import Bytes
from rsquant.nn.padded import pads_of
from rsquant.padding import Pair, extent_of, pads_at


class QLinear:
    """Adds QLinearConv nodes to a graph.

    Args:
        editor, decoder: of the graph.
    """

    def __init__(self, editor: Editor, decoder: Decoder) -> None:
        self.editor, self.decoder = editor, decoder

    def convolution(
        self,
        name: str,
        x: Bytes,
        weights: NDArray[Any],
        a: NDArray[np.float32],
        bias: NDArray[np.int32],
        zero: int,
        window: dict[str, Any],
        codes: LayerCodes | None = None,
    ) -> str:
        """Any signs of `a`, which may differ from size to size where codes of weights do not.

        Args:
            x: what is read; a code is (byte - zero) * scale, a whole number.
            weights: integers (O, ...), or (O, L) with `codes`.
            a, bias: (O,).
            zero: zero point of the result.
            window: see `window_of`.
        Returns:
            The name of the uint8 result.
        """
        # A scale is positive: where a is negative, n and B are.
        sign = np.where(a < 0, -1, 1)
        weights = weights.astype(np.int64) * sign.reshape(-1, *(1,) * (weights.ndim - 1))
        unit = round(x.scale)
        if np.abs(weights).max(initial=0) * unit > 127:
            factor = self.byte(unit)
            product = self.editor.node("Mul", [x.name, factor], f"{name}/times_{unit}")
            x, unit = Bytes(product, 1.0, x.zero * unit), 1
        table = (weights * unit).astype(np.int8)
        if codes is not None:
            self.decoder.decode(f"{name}/weights", f"{name}.weight", codes, table)
        else:
            self.editor.constant(f"{name}/weights", table)
        moved = sign.astype(np.int32) * bias
        return self.node(name, x, np.abs(a), moved, zero, window)

    def node(
        self,
        name: str,
        x: Bytes,
        a: NDArray[np.float32],
        bias: NDArray[np.int32] | None,
        zero: int,
        window: dict[str, Any],
    ) -> str:
        """Of weights that are the value NAME/weights; `a` is positive, of one value or of each."""
        constant = self.editor.constant
        one = constant("one", np.float32(1))
        names = [x.name, one, self.byte(x.zero), f"{name}/weights", constant(f"{name}/a", a)]
        zeros = constant(f"zeros/{a.size}", np.zeros(a.shape, np.int8))
        names += [zeros, one, self.byte(zero)]
        if bias is not None:
            names.append(constant(f"{name}/B", bias))
        return self.editor.node("QLinearConv", names, f"{name}/rounded", **window)

    def byte(self, value: int) -> str:
        """A constant."""
        return self.editor.constant(f"byte/{value}", np.uint8(value))


def window_of(name: str, layer: nn.Conv2d, sides: Pair) -> dict[str, Any]:
    """Attributes of a convolution of a map of this size.

    Raises:
        ExportError: it pads with something else than zeros.
    """
    if layer.padding_mode != "zeros":
        raise ExportError(f"{name}: padding '{layer.padding_mode}' has no integer form in ONNX")
    kernel, stride, dilation = (
        (pair[0], pair[1]) for pair in (layer.kernel_size, layer.stride, layer.dilation)
    )
    padding = pads_of(layer)
    # Of "same" and "valid", too; from the last side to the first.
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    pads = (top, left, bottom, right)
    if padding is not None:
        pads = pads_at(padding, sides, extent_of(kernel, dilation), stride)
    return {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": list(pads),
        "dilations": list(dilation),
        "group": layer.groups,
    }
