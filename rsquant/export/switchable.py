"""All resolutions of a network as one ONNX file, which picks its BatchNorms by the image's size."""

from __future__ import annotations

from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from rsquant.errors import ExportError
from rsquant.export.graph import IMAGES, to_onnx
from rsquant.nn.freeze import freeze
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork

# (S, 4 C) float32, C channels of all BatchNorms: one row per trained size, largest first. A row
# is gamma, beta, mean and variance of the first BatchNorm, then of the second, and so on.
TABLE = "batchnorms"
# What the graph computes from the size of its images: rows (1,) and (1,) int64 and the second
# one's weight (1,) float32, as `settings.blend` gives them, and the blended row (4 C,).
UPPER, LOWER = "batchnorms_upper", "batchnorms_lower"
WEIGHT, PICKED = "batchnorms_weight", "batchnorms_picked"
# gamma, beta, mean and variance, as BatchNorms call them and in the order of ONNX's inputs.
_NAMES = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def to_switchable_onnx(model: SwitchableNetwork) -> onnx.ModelProto:
    """One ONNX graph for images of every height and width.

    Input "images": (N, 3, H, W) float32, normalised, any N, H and W. Output "logits":
    (N, classes). As in the network, the side sqrt(H W) decides: a trained size uses its own
    BatchNorms, a size between two blends theirs, a size outside the range takes the nearest end.
    Nineteen nodes and a Split do that once per run, on one row of parameters; nothing is added per
    pixel.

    BatchNorms stay nodes of their own: parameters that change cannot be folded into the
    convolutions. Weights are stored as float32 levels. The network is not changed.

    Raises:
        ExportError: the exporter refuses the network, or a node of its graph depends on the size
            of the images the graph was made with.
    """
    network = _Switched(model)
    largest = model.resolutions[0]
    other = _other_size(network, model.resolutions)
    made = to_onnx(network, largest, any_size=True)
    try:
        _check_same(made.graph, to_onnx(network, other, any_size=True).graph, (largest, other))
    except ExportError as error:
        raise ExportError(
            f"{error} ({largest} and {other} differ); leave out `single_file=True`: one file "
            "for each size"
        ) from error
    for axis, name in ((2, "H"), (3, "W")):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    _pick_in_graph(made.graph, batchnorm_table(model).numpy(), model.resolutions)
    return made


def batchnorm_table(model: SwitchableNetwork) -> Tensor:
    """(S, 4 C) float32: the parameters of all BatchNorms side by side, see `TABLE`."""
    norms = _norms(model).values()
    return torch.cat([getattr(norm, name) for norm in norms for name in _NAMES], 1).detach().cpu()


def _norms(model: SwitchableNetwork) -> dict[str, SwitchableBatchNorm2d]:
    """The BatchNorms by name; one held under two names, or called twice, appears once."""
    modules = model.body.named_modules()
    return {name: norm for name, norm in modules if isinstance(norm, SwitchableBatchNorm2d)}


class _Switched(nn.Module):
    """A frozen network whose BatchNorms read their parameters from one vector.

    Traced, the vector is an initializer and its pieces are the outputs of one Split: data flow
    says which piece belongs to which BatchNorm, and the exporter finds no constants to fold.
    """

    row: Tensor

    def __init__(self, model: SwitchableNetwork) -> None:
        super().__init__()
        self.body = freeze(model, model.resolutions[0]).cpu()
        self.register_buffer("row", batchnorm_table(model)[0].clone())
        self.norms = [self.body.get_submodule(name) for name in _norms(model)]
        for norm in self.norms:
            for name in _NAMES:  # a plain attribute takes the place of each
                delattr(norm, name)
        self.channels = [norm.num_features for norm in _norms(model).values() for _ in _NAMES]

    def forward(self, images: Tensor) -> Tensor:
        pieces = iter(self.row.split(self.channels))
        for norm in self.norms:
            for name in _NAMES:
                setattr(norm, name, next(pieces))
        return self.body(images)


def _other_size(network: nn.Module, sizes: tuple[int, ...]) -> int:
    """A size that differs from the largest as much as one can, to see what depends on it.

    The smallest trained size or one more: of another parity than the largest, so that paddings
    computed from remainders differ too, unless the network only runs at some sizes.
    """
    base = sizes[-1] if len(sizes) > 1 else 2 * sizes[0]
    other = base + (base - sizes[0] + 1) % 2
    try:
        network(torch.zeros(1, 3, other, other))
    except Exception:  # whatever a user's forward does at a size it was not made for
        return base
    return other


def _check_same(one: onnx.GraphProto, other: onnx.GraphProto, sizes: tuple[int, int]) -> None:
    """Raise ExportError naming the first node in which graphs made at two sizes differ.

    Such a node holds a number taken from the images' size (a pooling's kernel, a shape); at a
    third size it would compute something else, or not run.
    """
    values = [_constants(graph) for graph in (one, other)]
    nodes = [[n for n in graph.node if n.op_type != "Constant"] for graph in (one, other)]
    for a, b in zip_longest(*nodes, fillvalue=onnx.NodeProto()):
        inputs = all(values[0].get(name) == values[1].get(name) for name in a.input)
        if not inputs or a.SerializeToString() != b.SerializeToString():
            node = a if a.op_type else b  # `one` may be the shorter
            raise ExportError(f"{node.op_type} {node.name} depends on the size of the images")


def _constants(graph: onnx.GraphProto) -> dict[str, bytes]:
    """What each initializer and each Constant node holds, by name."""
    values = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values[node.output[0]] = node.attribute[0].SerializeToString()
    return values


def _pick_in_graph(graph: onnx.GraphProto, table: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Let the graph compute the vector its BatchNorms are split from, so far an initializer.

    Rows: with sizes s_0 > s_1 > ... and the area a = H W, the lower row is how many sizes have
    s^2 > a, not counting the last; the upper row is how many have s^2 >= a, not counting the
    first. A trained size gives its row twice, a size outside the range an end twice. All
    integers, so exact.

    Weight of the lower row: (s_upper - side) / (s_upper - s_lower), the side clamped to the
    range. Where both rows are one the numerator is 0: float32's root of s^2 is s.

    Value: upper + weight (lower - upper), exactly the row where both are one.
    """
    squares = [size * size for size in sizes]
    constants = {
        TABLE: table,
        # Counted where a < bound: a < s^2 + 1 is a <= s^2, and 0 is never counted.
        "bounds": np.array([[0, *(s + 1 for s in squares[1:])], [*squares[:-1], 0]], np.int64),
        "sizes": np.array(sizes, np.float32),
        # s_upper - s_lower by lower row; the first is lower row only where both are one.
        "gaps": np.array([1, *(a - b for a, b in pairwise(sizes))], np.float32),
        "smallest": np.array(sizes[-1], np.float32),
        "largest": np.array(sizes[0], np.float32),
        "first_axis": np.array([0], np.int64),
        "last_axis": np.array([-1], np.int64),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Shape", [IMAGES], ["height_width"], {"start": 2, "end": 4}),
        ("ReduceProd", ["height_width", "first_axis"], ["area"], {}),
        ("Less", ["area", "bounds"], ["counted"], {}),
        ("Cast", ["counted"], ["ones"], {"to": onnx.TensorProto.INT64}),
        ("ReduceSum", ["ones", "last_axis"], ["rows"], {"keepdims": 0}),
        ("Split", ["rows"], [UPPER, LOWER], {"num_outputs": 2}),
        ("Cast", ["area"], ["float_area"], {"to": onnx.TensorProto.FLOAT}),
        ("Sqrt", ["float_area"], ["any_side"], {}),
        ("Clip", ["any_side", "smallest", "largest"], ["side"], {}),
        ("Gather", ["sizes", UPPER], ["upper_size"], {}),
        ("Sub", ["upper_size", "side"], ["below"], {}),
        ("Gather", ["gaps", LOWER], ["gap"], {}),
        ("Div", ["below", "gap"], [WEIGHT], {}),
        ("Gather", [TABLE, UPPER], ["upper_row"], {}),
        ("Gather", [TABLE, LOWER], ["lower_row"], {}),
        ("Sub", ["lower_row", "upper_row"], ["difference"], {}),
        ("Mul", ["difference", WEIGHT], ["part"], {}),
        ("Add", ["upper_row", "part"], ["row"], {}),
        ("Squeeze", ["row", "first_axis"], [PICKED], {}),
    ]
    norm = next(node for node in graph.node if node.op_type == "BatchNormalization")
    split = next(node for node in graph.node if norm.input[1] in node.output)
    traced = next(tensor for tensor in graph.initializer if tensor.name == split.input[0])
    graph.initializer.remove(traced)
    split.input[0] = PICKED
    nodes = [
        helper.make_node(
            op,
            [_full(name) for name in inputs],
            [_full(name) for name in outputs],
            f"{TABLE}/{op}_{i}",
            **attributes,
        )
        for i, (op, inputs, outputs, attributes) in enumerate(steps)
    ]
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(value, _full(name)) for name, value in constants.items()
    )


def _full(name: str) -> str:
    return name if name == IMAGES or name.startswith(TABLE) else f"{TABLE}_{name}"
