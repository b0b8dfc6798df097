"""A map of bytes of another size in an ONNX graph: exact, whatever computes it.

ONNX's Resize computes weights of its own, in an order of its own. Here the weights of each side are
a constant matrix of whole parts of 128, and a resized map is two products, of columns and of rows:

    blended (H, W) = rows (H, h) @ bytes (h, w) @ columns (W, w)^T     of each channel

The first gives multiples of 2^-7, the second of 2^-14, all below 2^8: float32 holds them exactly,
so their sums have no order. Weights of a pixel add up to 1, which keeps the zero point; and this is
even, so halves go to the even byte where they go to the even code.

The products are of (N, h, w, C), channels last: onnxruntime computes QLinearConv and what surrounds
it in this layout, and drops the transpositions between. With channels first it would take twice as
long for a whole light RefineNet (224 pixels, one thread, Zen 4: 95 ms for 47), as maxima of bytes
have no fast kernel there.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from rsquant.export.edit import Editor
from rsquant.packed.resampling import Taps, matrix


def add_resize(
    editor: Editor, x: str, shape: tuple[int, int, int], taps: tuple[Taps, Taps], name: str
) -> str:
    """Add the nodes that resize a map.

    Args:
        x: name of the bytes (N, C, h, w), uint8, of an even zero point.
        shape: C, h, w.
        taps: of rows and columns.
        name: for what is added.
    Returns:
        The name of the uint8 result (N, C, H, W).
    """
    channels, *sides = shape
    repeats = [_repeats(one, side) for one, side in zip(taps, sides, strict=True)]
    if all(repeats):
        # Each pixel so many times, no arithmetic: a tenth of the time of the products.
        factors = editor.constant(f"{name}/factors", np.array([1, 1, *repeats], np.float32))
        return editor.node(
            "Resize",
            [x, "", factors],
            f"{name}/resized",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    rows, columns = (matrix(one, side) for one, side in zip(taps, sides, strict=True))
    lines = editor.constant(f"{name}/lines", np.array([0, 0, -1]))
    pixels = editor.constant(f"{name}/pixels", np.array([0, 0, len(columns), channels]))
    y = editor.node("Transpose", [x], f"{name}/channels_last", perm=[0, 2, 3, 1])
    y = editor.node("Cast", [y], f"{name}/float", to=TensorProto.FLOAT)
    y = editor.node("MatMul", [editor.constant(f"{name}/columns", columns), y], f"{name}/wide")
    y = editor.node("Reshape", [y, lines], f"{name}/wide_lines")
    y = editor.node("MatMul", [editor.constant(f"{name}/rows", rows), y], f"{name}/blended_lines")
    y = editor.node("Reshape", [y, pixels], f"{name}/blended")
    # Of scale 1 it rounds halves to even. The zero point is in the bytes.
    one, zero = editor.constant("one", np.float32(1)), editor.constant("byte/0", np.uint8(0))
    y = editor.node("QuantizeLinear", [y, one, zero], f"{name}/rounded")
    return editor.node("Transpose", [y], f"{name}/resized", perm=[0, 3, 1, 2])


def _repeats(taps: Taps, side: int) -> int:
    """k where pixel i is i // k, of weight 1; else 0.

    Resize takes floor(i / k) in float32: where i / k is no integer, the next one is at least 1 / k
    away, more than rounding.
    """
    pixels, weights = taps
    k, rest = divmod(len(pixels), side)
    taken = np.arange(len(pixels)) // max(k, 1)
    repeated = not rest and (pixels[:, 0] == taken).all() and (weights[:, 0] == 1).all()
    return k if repeated else 0
