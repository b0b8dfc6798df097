"""What a reader checks of integer networks; the arithmetic is tested in tests/runtime."""

import copy
import json

import integer_networks
import numpy as np
import pytest

from rsquant.errors import ModelError, PackedFileError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.ops.integer_epilogue import bounds_of, level_thresholds
from rsquant.packed.plan import QuantizerSpec, needed_version
from rsquant.packed.schema import to_json


@pytest.fixture(scope="module")
def network():
    """(plan, tensors, metadata) of every step there is."""
    plan, tensors = integer_networks.every_step()
    return plan, tensors, json.loads(json.dumps(to_json(plan)))


@pytest.fixture
def reopened(network, tmp_path):
    """reopened(edit of the metadata, edit of the tensors) -> the file, opened."""

    def reopen(edit=lambda metadata: None, change=lambda tensors: None):
        metadata, tensors = copy.deepcopy(network[2]), dict(network[1])
        edit(metadata)
        change(tensors)
        write_packed(tmp_path / "net.rsq", tensors, metadata)
        return open_packed(tmp_path / "net.rsq")

    return reopen


def step(metadata, name):
    return next(step for step in metadata["steps"] if step["name"] == name)


def test_the_plan_is_read_as_it_was_written(network, reopened):
    packed = reopened()
    assert packed.plan == network[0]
    assert to_json(packed.plan) == network[2]
    assert needed_version(packed.plan.steps, packed.plan.quantizers, packed.tensors) == 5
    kinds = {value.kind for value in packed.values}
    assert kinds == {"image", "codes", "bytes", "float"}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("block.2", {"zero": 7}, "'zero' must be 0 or 128, got 7"),
        ("block.2", {"branch_zero": None}, "'add' and 'branch_zero' differ"),
        ("block.2", {"add": None}, "'add' and 'branch_zero' differ"),
        ("block.2", {"scale": "deep"}, "adds bytes of the scale 'sum' to ones of 'deep'"),
        ("block.2", {"scale": "sums"}, "there is no tensor 'sums'"),
        ("block.2", {"scale": None}, "'scale' and 'zero' go together"),
        ("block.2", {"scale": None, "zero": None}, "'bytes' need a 'scale'"),
        ("block.2", {"add": 3}, "adds codes of 8 to 8 channels"),
        ("block.2", {"bytes": None}, "writes value 6, the next is 5"),
        ("block.2", {"quantizer": None}, "'codes' and 'quantizer' differ"),
        ("block.2", {"quantizer": 9}, "there is no quantizer 9"),
        ("block.1", {"codes_relu": True}, "'codes_norm' and what follows it need a 'scale'"),
        ("block.1", {"codes": None, "quantizer": None}, "writes neither 'bytes' nor 'codes'"),
        ("stem", {"codes_relu": True}, "'codes_norm' and what follows it need 'codes'"),
        ("pool", {"zero": None}, "'zero' must be 0 or 128, got null"),
        ("pool", {"relu": True}, "averages bytes as they are"),
        ("pool", {"scale": 3}, "'scale' must be text"),
        ("last", {"input": 1}, "reads 8 channels, in_features=17"),
    ],
)
def test_each_disagreement_is_named(reopened, name, fields, message):
    with pytest.raises(PackedFileError, match=message):
        reopened(lambda metadata: step(metadata, name).update(fields))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("stem.weight", lambda a: np.full_like(a, 65), "'stem.weight' has values beyond 64"),
        ("stem.weight", lambda a: a.astype(np.int16), "'stem.weight' must be int8"),
        ("last.weight", lambda a: np.full_like(a, -65), "'last.weight' has values beyond 64"),
        ("sum", lambda a: 0 * a, "'sum' has values that are not positive"),
        ("sum", lambda a: a[:1], "'sum' must be float32"),
        ("bytes.basis", lambda a: np.full_like(a, 33), "levels up to 66, beyond 64"),
        ("block.2.norm", lambda a: a * np.float32(np.inf), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(reopened, name, change, message):
    with pytest.raises(PackedFileError, match=message), np.errstate(invalid="ignore"):
        reopened(change=lambda tensors: tensors.update({name: change(tensors[name])}))


def test_files_of_older_versions_have_no_integers(reopened):
    with pytest.raises(PackedFileError, match="'zero' is known from version 5"):
        reopened(lambda metadata: metadata.update(version=4))

    def older(metadata):
        metadata.update(version=4)
        del metadata["model"]["zero"]

    with pytest.raises(PackedFileError, match=r"step 0 \(stem\): .*'zero'.*integers"):
        reopened(older)


def test_the_image_has_a_zero_where_its_convolutions_are_of_integers(reopened):
    with pytest.raises(PackedFileError, match=r"step 0 \(stem\): the image has a 'zero' where"):
        reopened(lambda metadata: metadata["model"].pop("zero"))


def test_a_float_epilogue_reads_no_bytes(reopened):
    def edit(metadata):
        fields = step(metadata, "quantize")
        for name in ("bytes", "scale", "zero", "branch_zero"):
            del fields[name]
        fields["float"] = None

    with pytest.raises(PackedFileError, match="needs codes or a float value, 2 is bytes"):
        reopened(edit)


def test_sums_beyond_what_float32_holds_are_refused(tmp_path):
    net = integer_networks.Network()
    made, _ = net.conv("stem", 0, 2, 31, 1, 15, keep=True, scale="s", zero=0)
    plan = net.finish(made, "pooled")
    net.tensors["stem.weight"][:] = 64
    write_packed(tmp_path / "net.rsq", net.tensors, to_json(plan))
    with pytest.raises(PackedFileError, match="sums of up to 25278144, beyond 16777216"):
        open_packed(tmp_path / "net.rsq")


@pytest.mark.parametrize("name", ["block.1.norm", "block.2.norm", "block.2.behind"])
def test_multipliers_that_overflow_are_refused(reopened, name):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name][0] = 1e38

    packed = reopened(change=change)
    with pytest.raises(PackedFileError, match="its values can overflow"):
        build_program(packed, 24, 24)


def test_a_map_of_too_many_pixels_is_not_averaged(reopened):
    packed = reopened()
    with pytest.raises(ModelError, match="too many for exact sums of bytes; use another size"):
        build_program(packed, 2048, 2050)


def test_thresholds_may_skip_levels_and_be_nothing_else():
    never = float(np.finfo(np.float32).max)
    binary = QuantizerSpec(2, (2, -1), 0.37, (0.0, 0.0, never))
    np.testing.assert_array_equal(bounds_of(binary), [0, 0, 2**16])
    assert bounds_of(QuantizerSpec(1, (1,), 0.37, (0.1,))) is None
    halfway = QuantizerSpec(2, (1, 2), 0.37)
    own = QuantizerSpec(2, (1, 2), 0.37, tuple(np.float32(halfway.thresholds).tolist()))
    np.testing.assert_array_equal(bounds_of(own), bounds_of(halfway))


def test_thresholds_that_nothing_exceeds_hold_for_the_largest_values():
    class Builder:
        def exact_floats(self, *_):
            pass

    never = float(np.finfo(np.float32).max)
    quantizer = QuantizerSpec(2, (2, -1), 0.37, (-never, 0.0, never))
    slope = np.array([1e3, -1e3])
    t, sign = level_thresholds(Builder(), slope, np.zeros(2), quantizer, False, None)
    for n in (-(2**24), -1, 1, 2**24):
        above = sign.astype(np.int64) * n > t
        np.testing.assert_array_equal(above, [[True] * 2, slope * n > 0, [False] * 2])
