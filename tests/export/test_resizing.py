"""A resized map of bytes in a graph is that of whole numbers, in onnxruntime and by definition."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from rsquant.export.edit import Editor
from rsquant.export.engine import run, session
from rsquant.export.graph import OPSET
from rsquant.export.resizing import add_resize
from rsquant.nn.active import ActiveSetting
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.resize import IntegerResize
from rsquant.settings import of_sizes

ACTIVE = ActiveSetting(of_sizes((32,)))
SHAPE = (5, 6, 9)


def graph_of(mode, aligned, size, factor):
    """One resize of bytes, and its nodes."""
    module = IntegerResize(ACTIVE, Bytes(ByteScale(ACTIVE), True), mode, aligned, factor)
    graph = helper.make_graph(
        [], "x", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", *SHAPE])], []
    )
    editor = Editor(graph)
    result = add_resize(editor, "x", SHAPE, module.taps(SHAPE[1:], size), "resize")
    graph.node.extend(editor.nodes)
    shape = ["N", SHAPE[0], None, None]
    graph.output.append(helper.make_tensor_value_info(result, TensorProto.UINT8, shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model


def parts_of(side, mode, aligned, size, factor):
    """(out, side): weights of 1/128 as integers, from what torch makes of single pixels."""
    single = torch.eye(side).view(1, side, side, 1)
    size, factor = (None if v is None else (v, 1) for v in (size, factor))
    made = functional.interpolate(single, size, factor, mode, aligned)[0, :, :, 0].T.numpy()
    parts = np.zeros(made.shape, np.int64)
    for out, row in zip(parts, made, strict=True):
        taken = np.flatnonzero(row)
        second = np.rint(row[taken[-1]] * np.float32(128)) if len(taken) > 1 else 128
        out[taken[0]] += 128 - int(second)
        out[taken[-1]] += int(second)
    return parts


def resized(x, rows, columns):
    """Whole numbers; halves to even."""
    n = np.einsum("Hh,nchw,Ww->ncHW", rows, x.astype(np.int64), columns)
    floor, rest = n >> 14, n & (2**14 - 1)
    up = (rest > 2**13) | ((rest == 2**13) & (floor % 2 == 1))
    return floor + up


CASES = [
    ("bilinear", True, (12, 18), None),
    ("bilinear", False, (12, 18), None),
    ("bilinear", True, (5, 31), None),
    ("bilinear", False, (7, 4), None),
    ("bilinear", False, None, (1.7, 2.0)),
    ("bilinear", True, (6, 9), None),  # nothing changes
    ("nearest", None, (12, 27), None),  # whole factors
    ("nearest", None, (13, 7), None),
    ("nearest", None, None, (1.7, 0.6)),
    ("nearest-exact", None, (13, 7), None),
]


@pytest.mark.parametrize(("mode", "aligned", "size", "factor"), CASES)
def test_bytes_are_those_of_whole_numbers(mode, aligned, size, factor):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    x[0, 0], x[1, :3] = 255, rng.choice([0, 1, 254, 255], (3, *SHAPE[1:]))  # ends, and halves
    model = graph_of(mode, aligned, size, factor)
    rows, columns = (
        parts_of(
            SHAPE[1 + i], mode, aligned, *(None if v is None else v[i] for v in (size, factor))
        )
        for i in range(2)
    )
    expected = resized(x, rows, columns)
    assert (rows.sum(1) == 128).all() and (columns.sum(1) == 128).all()
    for found in (
        run(session(model.SerializeToString()), x)[0],
        ReferenceEvaluator(model).run(None, {"x": x})[0],
    ):
        assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize("k", range(1, 40))
def test_whole_factors_repeat_pixels_without_arithmetic(k):
    model = graph_of("nearest", None, (SHAPE[1] * k, SHAPE[2] * k), None)
    assert [node.op_type for node in model.graph.node] == ["Resize"]
    x = np.random.default_rng(k).integers(0, 256, (1, *SHAPE), dtype=np.uint8)
    found = run(session(model.SerializeToString()), x)[0]
    assert np.array_equal(found, x.repeat(k, 2).repeat(k, 3))
