"""Bytes to levels: every byte of many quantizers, against counting thresholds in numpy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from rsquant.export.edit import Editor
from rsquant.export.engine import run, session
from rsquant.export.int8.levels import Levels
from rsquant.export.int8.staircase import add_staircase

EVERY_BYTE = np.arange(256, dtype=np.uint8)
ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}

both_forms = pytest.mark.parametrize("compat", [False, True], ids=["bytes", "compat"])


def random_cases(count, seed):
    """(thresholds, levels): 1 to 15 thresholds from -20 to 290, levels of a span up to 127."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        steps = int(rng.integers(1, 16))
        thresholds = np.sort(rng.choice(np.arange(-20, 291), steps, replace=False))
        lowest = int(rng.integers(-127, 128))
        span = int(rng.integers(0, min(127, 127 - lowest) + 1))
        levels = lowest + np.sort(rng.integers(0, span + 1, steps + 1))
        cases.append((thresholds.tolist(), levels.tolist()))
    return cases


def random_bases(count, seed):
    """Two bits, thresholds 0, 1, 2, from a basis of either sign: levels 0, p, q, p + q."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        p, q = (rng.multinomial(rng.integers(1, 128), [0.5, 0.5]) * rng.choice([-1, 1], 2)).tolist()
        cases.append(([0, 1, 2], sorted((0, p, q, p + q))))
    return cases


SPECIAL = {
    "one threshold": ([0], [0, 1]),
    "one threshold in the middle": ([100], [-3, 5]),
    "a threshold at the last byte but one": ([254], [0, 127]),
    "a threshold that no byte exceeds": ([255], [1, 9]),
    "a threshold that every byte exceeds": ([-1], [1, 9]),
    "every byte has the lowest level": ([255, 256, 300], [-4, 1, 2, 3]),
    "every byte has the highest level": ([-9, -3, -1], [-7, -6, -5, -4]),
    "some below, some above": ([-5, -1, 0, 7, 254, 255, 400], [-9, -4, 0, 2, 3, 50, 60, 70]),
    "one level, zero": ([0, 1, 2], [0, 0, 0, 0]),
    "one level, above zero": ([0, 1, 2], [5, 5, 5, 5]),
    "one level, below zero": ([3, 4], [-5, -5, -5]),
    "the widest span below zero": ([0, 1, 2], [-127, -127, 0, 0]),
    "the widest span above zero": ([0, 1, 2], [0, 0, 127, 127]),
    "the widest span, in outer steps": ([0, 1, 2], [0, 63, 64, 127]),
    "the widest span, outer steps equal to the middle one's absence": ([0, 1, 2], [0, 63, 63, 126]),
    "two bits far from zero": ([0, 1, 2], [100, 103, 110, 113]),
    "two bits below zero": ([0, 1, 2], [-113, -110, -103, -100]),
    "four bits in equal steps": (list(range(15)), list(range(-8, 8))),
    "four bits in equal large steps": (list(range(15)), list(range(0, 128, 8))),
    "equal steps that zero is no multiple of": ([0, 1, 2], [1, 4, 7, 10]),
    "equal steps at unequal thresholds": ([0, 1, 3], [0, 1, 2, 3]),
    "equal levels between others": ([3, 6, 9, 12, 15, 18, 21], [0, 0, 4, 4, 4, 6, 9, 9]),
    "four bits of many heights": (
        list(range(0, 30, 2)),
        [0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78, 91, 105, 120],
    ),
}
CASES = [*SPECIAL.values(), *random_bases(60, 0), *random_cases(160, 1)]


def staircases(cases, compat):
    """A graph of all of them, all reading one input, and what each says its bytes are."""
    graph = helper.make_graph(
        [], "staircases", [helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["N"])], []
    )
    editor = Editor(graph)
    found = []
    for i, (thresholds, levels) in enumerate(cases):
        levels = Levels(tuple(levels), 1.0)
        found.append(add_staircase(editor, "bytes", thresholds, levels, f"q{i}", compat))
        graph.output.append(helper.make_tensor_value_info(found[-1].name, TensorProto.UINT8, ["N"]))
    graph.node.extend(editor.nodes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model, found


def counted(thresholds, levels):
    """The level of every byte: which one is how many thresholds the byte exceeds."""
    return np.array([levels[sum(byte > t for t in thresholds)] for byte in range(256)])


@pytest.fixture(scope="module", params=[False, True], ids=["bytes", "compat"])
def many(request):
    model, found = staircases(CASES, request.param)
    onnx.checker.check_model(model, full_check=True)
    return model, found


@pytest.fixture(scope="module")
def traced(many):
    """Every value of the graph, by the reference implementation."""
    model, _ = many
    return ReferenceEvaluator(model).run(None, {"bytes": EVERY_BYTE}, intermediate=True)


def assert_levels(values, found):
    wrong = [
        case
        for case, value, bytes_ in zip(CASES, values, found, strict=True)
        if value.dtype != np.uint8
        # The scale is the levels' common factor: integers, exact in float64.
        or not np.array_equal(bytes_.scale * (value.astype(int) - bytes_.zero), counted(*case))
    ]
    assert not wrong


def test_onnxruntime_gives_every_byte_its_level(many):
    model, found = many
    assert_levels(run(session(model.SerializeToString()), EVERY_BYTE), found)


def test_the_reference_implementation_gives_every_byte_its_level(many, traced):
    assert_levels([traced[bytes_.name] for bytes_ in many[1]], many[1])


def test_the_largest_byte_is_the_one_said(many, traced):
    for case, bytes_ in zip(CASES, many[1], strict=True):
        # Two bits are raised by one of their steps, so that nothing goes below zero.
        assert bytes_.top == traced[bytes_.name].max() <= 2 * 127, case


def test_zero_is_a_byte(many):
    assert all(0 <= bytes_.zero <= 2 * 127 for bytes_ in many[1])


def test_no_arithmetic_overflows(many, traced):
    model, _ = many
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    values = traced | constants
    looked_at = 0
    for node in model.graph.node:
        if node.op_type in ARITHMETIC:
            left, right = (values[name].astype(np.int64) for name in node.input)
            exact = ARITHMETIC[node.op_type](left, right)
            assert np.array_equal(values[node.output[0]], exact), node.name
            looked_at += 1
    assert looked_at > len(CASES)


def test_compat_has_no_arithmetic_on_bytes():
    # onnxruntime 1.20 knows Cast and Clip of bytes, and no more of this.
    model, _ = staircases(CASES, compat=True)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input)}
    types |= {t.name: t.data_type for t in inferred.initializer}
    on_bytes = {n.op_type for n in inferred.node if types[n.input[0]] == TensorProto.UINT8}
    assert on_bytes == {"Cast", "Clip"}


def operators(case, compat=False):
    return [node.op_type for node in staircases([case], compat)[0].graph.node]


@both_forms
@pytest.mark.parametrize("levels", [[0, 1], [0, 5, 10, 15], list(range(-8, 8)), [-64, 0]])
def test_equal_steps_are_one_clip(levels, compat):
    assert operators((list(range(len(levels) - 1)), levels), compat) == ["Clip"]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0, 1, 2, 3], ["Clip"]),
        ([0, 1, 3, 4], ["Clip", "Clip", "Add"]),
        ([-3, -2, 0, 1], ["Clip", "Clip", "Add"]),
        ([0, 2, 3, 5], ["Clip", "Mul", "Clip", "Add", "Max"]),
        ([0, 3, 8, 11], ["Clip", "Mul", "Clip", "Add"]),
        # The middle step at most twice the others.
        (
            [0, 3, 10, 13],
            ["Greater", "Cast", "Greater", "Cast", "Add", "Mul", "Greater", "Cast", "Mul", "Add"],
        ),
        # Common factors belong to the scale.
        ([0, 20, 60, 80], ["Clip", "Clip", "Add"]),
    ],
)
def test_two_bits_take_few_operations(levels, expected):
    assert operators(([0, 1, 2], levels)) == expected
    first = ["Cast"] if expected[0] == "Greater" else ["Clip", "Cast"]
    rest = expected if expected[0] == "Greater" else expected[1:]
    wide = expected if expected == ["Clip"] else [*first, *rest, "Cast"]
    assert operators(([0, 1, 2], levels), compat=True) == wide


def test_levels_that_no_byte_reaches_cost_nothing():
    assert operators(([-2, -1, 0, 300], [-5, -4, 0, 1, 9])) == ["Clip"]


def test_a_step_of_no_height_costs_nothing():
    assert operators(([3, 6, 9], [0, 0, 1, 1])) == ["Greater", "Cast"]


def test_the_scale_takes_the_common_factor():
    _, (found,) = staircases([([3, 6, 9], [-12, 6, 18, 24])], compat=False)
    assert (found.scale, found.zero, found.top) == (6.0, 2, 6)


@both_forms
@pytest.mark.parametrize(
    ("thresholds", "levels"),
    [([5, 5], [0, 1, 2]), ([5, 5], [0, 1, 4]), ([2, 7, 7, 7, 9], [-3, -1, 1, 3, 5, 7])],
)
def test_thresholds_that_fall_on_one_byte_are_exceeded_together(thresholds, levels, compat):
    # Bytes that calibration gave may be too coarse to tell two thresholds apart.
    model, (found,) = staircases([(thresholds, levels)], compat)
    (value,) = run(session(model.SerializeToString()), EVERY_BYTE)
    assert np.array_equal(
        found.scale * (value.astype(int) - found.zero), counted(thresholds, levels)
    )


@both_forms
def test_two_quantizers_share_their_constants(compat):
    cases = [([0, 1, 2], [0, 3, 8, 11]), ([0, 1, 2], [-8, -5, 0, 3])]
    one, two = (staircases(cases[:n], compat)[0].graph for n in (1, 2))
    assert [t.name for t in one.initializer] == [t.name for t in two.initializer]
