"""A packed file to a program for one size, from the file alone."""

import numpy as np
import pytest
import torch

import rsquant
from rsquant.errors import ModelError, PackedFileError
from rsquant.kernels import reference
from rsquant.packed.build import build_program
from rsquant.packed.check import check
from rsquant.packed.file import checked, open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.ops.avgpool import AvgPoolStep
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.ops.linear import LinearStep
from rsquant.packed.ops.map import MapStep
from rsquant.packed.ops.maxpool import MaxPoolStep
from rsquant.packed.program import run
from rsquant.packing.write import pack


@pytest.fixture
def path(tmp_path, vary):
    torch.manual_seed(0)
    network = vary(rsquant.create("resnet10", 2, 2, (64, 48, 32), 5, width=8, stem="imagenet"))
    pack(network, tmp_path / "x.rsq")
    return tmp_path / "x.rsq"


def test_values_have_the_shapes_that_steps_give_them(path):
    program = build_program(open_packed(path), 64, 40)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 40), dtype=np.uint8)
    logits, values = run(program, images, every=True)
    assert len(values) == len(program.values)
    for value, array in zip(program.values, values, strict=True):
        assert array.shape == (2, value.height, value.width, value.channels)
        assert array.dtype == (np.float32 if value.kind == "float" else np.uint8)
    assert logits.shape == (2, 5)
    np.testing.assert_array_equal(logits, run(program, images))
    kinds = {type(step) for step in program.steps}
    assert kinds == {ConvStep, MapStep, MaxPoolStep, AvgPoolStep, LinearStep}


def test_images_in_a_batch_do_not_touch_each_other(path):
    program = build_program(open_packed(path), 32, 32)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    single = np.concatenate([run(program, images[i : i + 1]) for i in range(3)])
    np.testing.assert_array_equal(run(program, images), single)


def test_images_of_another_shape_are_refused(path):
    program = build_program(open_packed(path), 32, 32)
    for images in (np.zeros((1, 3, 48, 32), np.uint8), np.zeros((1, 3, 32, 32), np.float32)):
        with pytest.raises(ValueError, match=r"images must be uint8 \(N, 3, 32, 32\), got"):
            run(program, images)


def test_arrays_are_what_kernels_bind(path):
    packed = open_packed(path)
    program, other = build_program(packed, 64, 64), build_program(packed, 32, 32)
    for step, twin in zip(program.steps, other.steps, strict=True):
        epilogue = getattr(step, "epilogue", None)
        if epilogue is not None:
            channels = epilogue.scale.size
            for array in (
                epilogue.scale,
                epilogue.shift,
                epilogue.thresholds,
                epilogue.sign,
                epilogue.levels,
            ):
                assert array.flags.c_contiguous
            dtype = np.int32 if epilogue.integer else np.float32
            levels = epilogue.levels.size
            assert epilogue.thresholds.shape == (max(levels - 1, 0), channels)
            assert epilogue.thresholds.dtype == dtype
            assert epilogue.sign.dtype == np.int8 and epilogue.sign.shape == (channels,)
            assert epilogue.levels.dtype == np.uint8
            assert epilogue.scale.dtype == epilogue.shift.dtype == np.float32
            only_codes = epilogue.add is None and epilogue.keep is None
            assert epilogue.integer is (isinstance(step, ConvStep) and only_codes)
        if isinstance(step, ConvStep):
            assert step.correction.dtype == np.int32
            level = np.abs(step.levels())
            assert level.max() <= step.weight_limit
            # The weights of the file, for all sizes.
            stored = step.planes if step.planes is not None else step.whole_weight
            again = twin.planes if twin.planes is not None else twin.whole_weight
            assert np.shares_memory(stored, again)
            assert not stored.flags.owndata


def test_no_byte_exceeds_the_input_limit(path):
    program = build_program(open_packed(path), 48, 48)
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 48, 48), dtype=np.uint8)
    _, values = run(program, images, every=True)
    for step in program.steps:
        if isinstance(step, ConvStep):
            assert values[step.input].max() <= step.input_limit
            assert program.values[step.input].fill <= step.input_limit


@pytest.mark.parametrize("height,width", [(0, 32), (32, -1), (65537, 32)])
def test_sizes_that_are_none_are_refused(path, height, width):
    with pytest.raises(ModelError, match="sides must be 1 to 65536 pixels, got"):
        build_program(open_packed(path), height, width)


def test_images_too_large_for_memory_are_refused(path):
    with pytest.raises(ModelError, match="images of 65536x65536 pixels are too large"):
        build_program(open_packed(path), 65536, 65536)


def test_a_map_that_becomes_empty_is_refused(tmp_path):
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.MaxPool2d(4),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    )
    pack(rsquant.convert(body, 2, 2, (32,)), tmp_path / "x.rsq")
    packed = open_packed(tmp_path / "x.rsq")
    assert build_program(packed, 6, 6).values[-1].channels == 2
    with pytest.raises(ModelError, match="images of 5x6 pixels are too small: nothing is left"):
        build_program(packed, 5, 6)
    with pytest.raises(ModelError, match=r"at 0; use \d+ or more"):
        build_program(packed, 2, 2)


def test_a_classifier_of_several_pixels_is_refused(path):
    packed = open_packed(path)
    plan = packed.plan
    linear = plan.steps[-1]
    average = plan.steps[-2]
    object.__setattr__(linear, "input", average.input)
    assert check(plan, packed.tensors)
    with pytest.raises(PackedFileError, match="fc: reads a map of 2x2 pixels, not 1"):
        build_program(packed, 64, 64)


@pytest.mark.parametrize(
    "name,factor",
    [
        ("bn1.norm", 1e37),
        ("conv1.scale", 1e36),
        ("fc.scale", 3e38),
        ("layer4.1.0.norm", 1e37),
    ],
)
def test_values_that_could_overflow_are_refused(path, tmp_path, name, factor):
    tensors, metadata = read_packed(path)
    tensors[name] = np.clip(tensors[name] * np.float64(factor), -3e38, 3e38).astype(np.float32)
    if name.endswith("norm"):
        tensors[name][3] = 1
    write_packed(tmp_path / "y.rsq", tensors, metadata)
    with pytest.raises(PackedFileError, match=r"y\.rsq.*its values can overflow"):
        build_program(open_packed(tmp_path / "y.rsq"), 64, 64)


def test_what_is_checked_twice_is_the_same(path):
    packed = open_packed(path)
    assert checked(path, packed.plan, packed.tensors).values == packed.values


def float_steps(program):
    return {
        step.name: step
        for step in program.steps
        if isinstance(step, ConvStep) and step.inverse_step is not None
    }


def range_of(step):
    """What the fixed-point numbers of a step cover."""
    return step.input_limit / step.inverse_step


def test_fixed_point_covers_what_the_norms_say(make):
    packed = open_packed(make("floats", sizes=(48, 32)))
    tables = packed.tensors

    def usual(name, row):
        gamma, beta = tables[name][:2, row].astype(np.float64)
        return (np.abs(beta) + 32 * np.abs(gamma)).max()

    for row, size in enumerate((48, 32)):
        steps = float_steps(build_program(packed, size, size))
        assert steps.keys() == {"shortcut", "wide", "itself", "strided", "depthwise"}
        # The convolution of 8-bit pixels cannot reach 32 deviations in all channels.
        weight = tables["conv.weight"].astype(np.int64).reshape(8, -1)
        reach = 255 * np.maximum(weight.clip(min=0).sum(1), -weight.clip(max=0).sum(1))
        gamma, beta, mean, var = tables["bn.norm"][:, row].astype(np.float64)
        factor = gamma / np.sqrt(var + 1e-5)
        shift = beta + factor * (tables["conv.bias"] - mean)
        worst = np.abs(factor * tables["conv.scale"]) * reach + np.abs(shift)
        possible = np.minimum(worst, np.abs(beta) + 32 * np.abs(gamma)).max()
        assert range_of(steps["shortcut"]) == pytest.approx(possible)
        assert range_of(steps["wide"]) <= usual("bn_s.norm", row) + usual("bn_b.norm", row)
        assert range_of(steps["itself"]) <= usual("bn_w.norm", row)
        assert range_of(steps["depthwise"]) == pytest.approx(6)  # behind a ReLU6


def test_no_float_is_limited_in_a_network_as_its_norms_say(make):
    program = build_program(open_packed(make("floats", sizes=(48, 32))), 40, 44)
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 40, 44), dtype=np.uint8)
    _, values = run(program, images, every=True)
    for step in float_steps(program).values():
        assert step.input_limit == reference.fixed_limit(step.levels()[0].size, step.weight_limit)
        largest = np.abs(values[step.input]).max()
        assert range_of(step) / 1000 < largest < range_of(step)


def test_values_that_are_all_0_become_0(make):
    path = make("floats", sizes=(48, 32))
    tensors, metadata = read_packed(path)
    tensors["bn_w.norm"] = tensors["bn_w.norm"] * np.float32([[[0]], [[0]], [[1]], [[1]]])
    write_packed(path.with_name("y.rsq"), tensors, metadata)
    program = build_program(open_packed(path.with_name("y.rsq")), 48, 48)
    step = float_steps(program)["itself"]
    assert step.inverse_step == 0.0
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 48, 48), dtype=np.uint8)
    assert np.isfinite(run(program, images)).all()
