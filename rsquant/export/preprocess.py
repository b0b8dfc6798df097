"""Resize, crop and normalisation as nodes in front of an exported graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rsquant.crop import LONGEST, evaluation_side
from rsquant.errors import ExportError

PIXELS = "pixels"
PREFIX = "preprocess/"
# Resize has antialiasing since this opset.
OLDEST_OPSET = 18
# torch resizes uint8 along the width, rounds, resizes along the height, and rounds again, ties up.
# So do the two float Resize nodes here, each with floor(x + HALF) behind it. Enlarging 224 to 256
# has weights k / 16, so ties are common, and onnxruntime's float32 error, below 2^-10, would send
# some of them down. The excess over 1/2 sends them up. Measured on photographs, onnxruntime 1.20,
# 1.24, 1.27 and 1.31 alike; values that differ from torch's, and by how many levels at most, for
# 32 of 224 x 224 resized to 256, 182 and 109, and for 136 of 40 x 40 to 480 x 360 to other sizes:
#     these two passes                             0.13 %, 1 (2 in 11 million: 2)   0.12 %, 1
#     the same with floor(x + 1/2)                 1.33 %, 2                        0.13 %, 2
#     one Resize of uint8, NHWC or NCHW            1.34 %, 2                        0.12 %, 2
#     the same without exclude_outside             1.50 %, 10 (at the borders)
#     one Resize of float, rounded once              15 %, 1
# What remains is torch's rounding of its weights to 16 bits, which moves ties and near-ties.
HALF = 0.5 + 2.0**-10


def add_preprocessing(
    proto: onnx.ModelProto,
    resolution: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    whole: bool = False,
) -> None:
    """Replace a graph's normalised input by "pixels": (N, H, W, 3) uint8, R G B, any H and W.

    images = normalise(evaluation_crop(pixels)), up to one level in few pixels: see HALF.
    Edits `proto` in place; its own nodes and their names stay, and so do its opset and IR version.
    What was the input is now the value of that name inside the graph. New names start with
    "preprocess/". All images of a batch have one size. An image of no pixels is an error at run
    time.

    Args:
        proto: a graph with one input, (N, 3, R, R) float32, normalised; opset 18 or later.
        resolution: R in pixels. None: neither resize nor crop, images = normalise(pixels).
        mean, std: per channel, in units of 0..1.
        whole: resize all of the picture to a square, as segmentation does, in place of the crop.
    Raises:
        ExportError: another input, an older opset, names that are taken, or statistics that are
            not three numbers each. `proto` is unchanged.
    """
    images = _checked_input(proto, mean, std)
    steps = _Steps()
    if resolution is None:
        crop = steps.node("float", "Cast", PIXELS, to=TensorProto.FLOAT)
    else:
        crop = (_add_square if whole else _add_crop)(steps, resolution)
    nchw = steps.node("nchw", "Transpose", crop, perm=[0, 3, 1, 2])
    # The float32 values of transforms.normalise, so that its result is met bit for bit.
    scale = np.array([1 / (255 * s) for s in std], np.float32).reshape(1, 3, 1, 1)
    shift = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)
    scaled = steps.node("scaled", "Mul", nchw, steps.constant("scale", scale))
    steps.node("normalised", "Add", scaled, steps.constant("shift", shift.reshape(1, 3, 1, 1)))
    steps.nodes[-1].output[0] = images.name

    graph = proto.graph
    nodes = [*steps.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(steps.constants)
    graph.value_info.append(images)
    shape: list[str | int | None] = ["N", "H", "W", 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))


class _Steps:
    """Nodes and constants that wait to be put into a graph; each is named after its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        name = PREFIX + name
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, PREFIX + name))
        return PREFIX + name

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))


def _add_crop(steps: _Steps, resolution: int) -> str:
    """`crop.centre_crop` of PIXELS: whole numbers 0..255, (N, R, R, 3) float32.

    Sizes are int64 and equal Python's:
        int(S * H / W) == S * H // W: the exact quotient a / b lies at least 1 / b below the next
            whole number k, and float64 rounds it to k only if 1 / b <= k * 2**-53: never for
            a < 2**52. With W the short side it holds for both sides: S * W // W == S.
        round(d / 2) == (d + d // 2 % 2) // 2: an odd d goes up if d // 2 is odd, so to the even.
    """
    node, integers = steps.node, steps.integers
    zero, one, two = (integers(str(i), i) for i in range(3))

    size = node("size", "Shape", PIXELS, start=1, end=3)
    short = node("short", "ReduceMin", size, keepdims=1)
    longest = node("longest", "Mul", short, integers(str(LONGEST), LONGEST))
    excess = node("excess", "Max", node("over", "Sub", size, longest), zero)
    start = node("start", "Div", excess, two)
    end = node("end", "Sub", size, start)
    strip = node("strip", "Slice", PIXELS, start, end, integers("axes", 1, 2))

    side = integers("side", evaluation_side(resolution))
    scaled = node("size_by_side", "Mul", node("strip_size", "Sub", end, start), side)
    # An empty image must not divide by zero, which would end the process.
    resized = node("resized", "Div", scaled, node("divisor", "Max", short, one))
    crop = integers("resolution", resolution)
    margin = node("margin", "Sub", resized, crop)
    odd = node("odd", "Mod", node("half_margin", "Div", margin, two), two)
    first = node("first", "Div", node("to_even", "Add", margin, odd), two)
    last = node("last", "Add", first, crop)

    x = node("float", "Cast", strip, to=TensorProto.FLOAT)
    # Columns first, as torch does; the second pass only sees those of the crop.
    columns = _Axis(2, "columns", one)
    rows = _Axis(1, "rows", zero)
    for axis in (columns, rows):
        x = _resize(steps, x, axis, resized)
        x = _cut(steps, x, axis, first, last)
    # Already so, but now known before the file runs; an image of no pixels is refused here.
    shape = integers("shape", 0, resolution, resolution, 3)
    return node("cropped", "Reshape", x, shape)


def _add_square(steps: _Steps, resolution: int) -> str:
    """All of PIXELS as a square: whole numbers 0..255, (N, R, R, 3) float32."""
    # An image of no pixels is refused here: a reshape has no size for it.
    size = steps.node("size", "Shape", PIXELS, start=1, end=3)
    least = steps.node("least", "Max", size, steps.integers("1", 1))
    ends = steps.integers("first", 0), steps.integers("channels", 3)
    filled = steps.node("filled", "Concat", ends[0], least, ends[1], axis=0)
    x = steps.node("float", "Cast", PIXELS, to=TensorProto.FLOAT)
    x = steps.node("whole", "Reshape", x, filled)
    lengths = steps.integers("square", resolution, resolution)
    for axis in (
        _Axis(2, "columns", steps.integers("column", 1)),
        _Axis(1, "rows", steps.integers("row", 0)),
    ):
        x = _resize(steps, x, axis, lengths)
    return steps.node(
        "cropped", "Reshape", x, steps.integers("shape", 0, resolution, resolution, 3)
    )


class _Axis(NamedTuple):
    """A side of (N, H, W, 3) values, and where [height, width] holds its length."""

    number: int
    name: str
    place: str


def _resize(steps: _Steps, x: str, axis: _Axis, lengths: str) -> str:
    """Bilinear with antialiasing along one axis, rounded to whole numbers, ties up."""
    name = axis.name
    # All four sizes: onnxruntime 1.20 to 1.31 refuse Resize's `axes` behind a Transpose of theirs.
    before = steps.node(f"{name}_before", "Shape", x, start=0, end=axis.number)
    length = steps.node(f"{name}_length", "Gather", lengths, axis.place)
    after = steps.node(f"{name}_after", "Shape", x, start=axis.number + 1)
    sizes = steps.node(f"{name}_sizes", "Concat", before, length, after, axis=0)
    resized = steps.node(
        f"{name}_resized",
        "Resize",
        x,
        "",
        "",
        sizes,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
        antialias=1,
        exclude_outside=1,
    )
    half = steps.constant(f"{name}_half", np.array(HALF, np.float32))
    raised = steps.node(f"{name}_raised", "Add", resized, half)
    return steps.node(f"{name}_rounded", "Floor", raised)


def _cut(steps: _Steps, x: str, axis: _Axis, first: str, last: str) -> str:
    """The part from `first` up to `last` along one axis; both hold [height, width]."""
    name = axis.name
    start = steps.node(f"{name}_first", "Gather", first, axis.place)
    end = steps.node(f"{name}_last", "Gather", last, axis.place)
    number = steps.integers(f"{name}_axis", axis.number)
    return steps.node(f"{name}_cropped", "Slice", x, start, end, number)


def _checked_input(
    proto: onnx.ModelProto, mean: Sequence[float], std: Sequence[float]
) -> onnx.ValueInfoProto:
    """A copy of the graph's input, if preprocessing can be put in front of it."""
    graph = proto.graph
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"add_preprocessing: the opset must be {OLDEST_OPSET} or later, got {opset}"
        )
    if len(mean) != 3 or len(std) != 3:
        raise ExportError(
            "add_preprocessing: mean and std must have 3 values each, "
            f"got {len(mean)} and {len(std)}"
        )
    images = onnx.ValueInfoProto()
    if len(graph.input) == 1:
        images.CopyFrom(graph.input[0])
    tensor = images.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        found = ", ".join(value.name for value in graph.input)
        raise ExportError(
            f"add_preprocessing: the one input must be (N, 3, R, R) float32, got inputs {found}"
        )
    names = [name for node in graph.node for name in (node.name, *node.output)]
    names += [value.name for value in (*graph.initializer, images)]
    taken = [name for name in names if name == PIXELS or name.startswith(PREFIX)]
    if taken:
        raise ExportError(f"add_preprocessing: the name {taken[0]!r} is taken; rename it first")
    return images
