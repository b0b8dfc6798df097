"""A file whose checksum is right may still hold anything: an error, or a program that runs."""

import copy
import json
from zlib import crc32

import numpy as np
import pytest

from rsquant.errors import ModelError, PackedFileError
from rsquant.packed.build import build_program
from rsquant.packed.file import open_packed
from rsquant.packed.program import run
from rsquant.packed.schema import from_json, to_json

IMAGES = np.random.default_rng(1).integers(0, 256, (1, 3, 12, 14), dtype=np.uint8)

HOSTILE = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    2**31,
    2**70,
    -(2**70),
    0.5,
    1e38,
    1e308,
    "",
    "x" * 10_000,
    "first",
    [],
    [[]],
    {},
    [1, 2, 3],
]


def paths(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from paths(value[index], (*path, index))


def edit(value, path, change):
    value = copy.deepcopy(value)
    *parents, last = path
    holder = value
    for key in parents:
        holder = holder[key]
    change(holder, last)
    return value


def put(value):
    """Sets an entry, for `edit`."""
    return lambda holder, key: holder.__setitem__(key, value)


def opens_right_or_not_at_all(path):
    """Whether it was accepted; accepted files must run."""
    try:
        program = build_program(open_packed(path), *IMAGES.shape[2:])
    except (PackedFileError, ModelError) as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
        return False
    logits = run(program, IMAGES)
    assert np.isfinite(logits).all()
    return True


def test_the_plan_is_read_as_it_was_written(write, handmade):
    packed = open_packed(write())
    assert packed.plan == handmade[0]
    assert from_json(json.loads(json.dumps(to_json(packed.plan)))) == packed.plan
    kinds = [value.kind for value in packed.values]
    assert kinds == ["image", "codes", "codes", *["float"] * 2, "codes", *["float"] * 4]
    assert opens_right_or_not_at_all(packed.path)


@pytest.mark.parametrize("part", ["model", "quantizers", *range(8)])
def test_hostile_values_in_the_plan_are_refused_or_harmless(write, metadata, part):
    places = ("steps", part) if isinstance(part, int) else (part,)
    here = metadata[places[0]][part] if isinstance(part, int) else metadata[part]
    accepted = refused = 0
    for inner in paths(here):
        for index, value in enumerate(HOSTILE):
            # Every value everywhere would take a minute: every third, each place another one.
            if (index + len(str(inner))) % 3:
                continue
            changed = edit(metadata, places + inner, put(value))
            if opens_right_or_not_at_all(write(changed)):
                accepted += 1
            else:
                refused += 1
    assert refused > 30
    assert refused > 3 * accepted


def test_missing_and_unknown_fields_are_refused(write, metadata):
    for path in paths(metadata):
        if path and isinstance(path[-1], str) and path[-1] != "thresholds":  # which may be left out
            with pytest.raises(PackedFileError, match=r"lacks|is not a rsquant-packed file"):
                open_packed(write(edit(metadata, path, lambda at, key: at.pop(key))))
    for path in [(), ("model",), ("quantizers", 0), ("steps", 0), ("steps", 7)]:
        changed = edit(metadata, (*path, "surprise"), put(1))
        with pytest.raises(PackedFileError, match="unknown field 'surprise'"):
            open_packed(write(changed))


@pytest.mark.parametrize(
    "place,value,message",
    [
        (("format",), "other", r"net\.rsq: is not a rsquant-packed file"),
        (("version",), 9, "is rsquant-packed version 9, .* reads versions up to 8; update rsquant"),
        (("version",), 0, "'version' must be an integer from 1 to 8"),
        (("version",), 3, "quantizer 1: 'thresholds' are known from version 4 .* has version 3"),
        (("quantizers", 1, "thresholds"), [0.1] * 6, "'thresholds' must be a list of 7"),
        (("quantizers", 1, "thresholds"), None, "'thresholds' must be a list of 7"),
        (("quantizers", 1, "thresholds"), [0.1] * 6 + [0], "quantizer 1: 'thresholds' must ascend"),
        (("quantizers", 1, "thresholds", 6), 1e39, "must be a number in range"),
        (("quantizers", 1, "thresholds", 0), "low", "'thresholds' must be a number"),
        (("model", "resolutions"), [16, 24], "'resolutions' must descend"),
        (("model", "classes"), ["a"], "has 1 names of classes, but 3 classes"),
        (("model", "num_classes"), 4, r"(3 names of classes, but 4|gives 3 logits)"),
        (("quantizers", 0, "basis"), [64, 64], "must span at most 127, got 128"),
        (("quantizers", 0, "scale"), 0, "must be a positive number"),
        (("steps", 0, "op"), "upsample", "unknown op 'upsample'; known: adaptive_avgpool, "),
        (("steps", 0, "op"), "con", r"unknown op 'con'; did you mean 'conv'\? known: "),
        (("steps", 0, "groups"), 2, "a convolution of the image has one group"),
        (("steps", 3, "groups"), 3, "groups must divide the channels"),
        (("steps", 0, "input"), 1, "reads value 1 before it is written"),
        (("steps", 1, "output"), 3, "writes value 3, the next is 2"),
        (("steps", 1, "padding"), [2, 2], "at most half the kernel"),
        (("steps", 3, "padding"), [5, 2], "smaller than the"),
        (("steps", 3, "padding"), [0, 0, 5, 0], "smaller than the"),
        (("steps", 3, "padding"), [1, 1, 1], "'padding' must be 2 or 4 numbers, got 3"),
        (("steps", 3, "padding"), [1, 1, 1, -1], "'padding' must be an integer from 0"),
        (
            ("steps", 3, "padding"),
            "valid",
            "must be pixels or one of same, same-lower, got 'valid'",
        ),
        (("steps", 1, "padding"), [0, 0, 3, 0], "at most half the kernel"),
        (("steps", 3, "add"), 2, "adds codes of 8 to 8 channels"),
        (("steps", 3, "quantizer"), 2, "there is no quantizer 2"),
        (("steps", 3, "quantizer"), None, "'codes' and 'quantizer' go together"),
        (("steps", 4, "float"), None, "writes neither 'float' nor 'codes'"),
        (("steps", 6, "input"), 5, "needs a float value, 5 is codes"),
        (("steps", 6, "norm"), "n2.norm", r"'n2.norm' must be float32 \(4, 2, 5\)"),
        (("steps", 7, "in_features"), 6, "reads 5 channels, in_features=6"),
        (("steps", 2, "input"), 0, "only a convolution can read the image"),
        (("steps", 4, "name"), "second", "two steps have this name"),
        (("steps", 6, "norm"), None, "tensor 'n3.norm' belongs to no step"),
    ],
)
def test_each_disagreement_is_named(write, metadata, place, value, message):
    changed = edit(metadata, place, put(value))
    with pytest.raises(PackedFileError, match=message):
        open_packed(write(changed))


@pytest.fixture
def before_offsets(metadata, handmade):
    """(metadata, tensors) of the handmade network without offset and thresholds."""
    del metadata["quantizers"][1]["thresholds"]
    tensors = {k: v for k, v in handmade[1].items() if k != "third.offset"}
    tensors["third.basis"] = (tensors["third.basis"] // 2).astype(np.int8)
    return metadata, tensors


def test_offsets_need_their_version(write, before_offsets, handmade):
    metadata, tensors = before_offsets
    assert opens_right_or_not_at_all(write({**metadata, "version": 3}, tensors))
    message = r"step 4 \(third\): 'third.offset' is known from version 4 .* has version 3"
    with pytest.raises(PackedFileError, match=message):
        open_packed(write({**metadata, "version": 3}, handmade[1]))


def test_a_basis_and_twice_it_with_an_offset_are_the_same_levels(write, before_offsets):
    metadata, tensors = before_offsets
    plain = build_program(open_packed(write(metadata, tensors)), *IMAGES.shape[2:])
    basis = tensors["third.basis"].astype(np.int16)
    tensors |= {"third.basis": 2 * basis, "third.offset": -basis.sum(1).astype(np.int8)}
    program = build_program(open_packed(write(metadata, tensors)), *IMAGES.shape[2:])
    np.testing.assert_array_equal(run(program, IMAGES), run(plain, IMAGES))


@pytest.fixture
def without_floats(before_offsets):
    """(metadata, tensors) of the handmade network without all that came after version 1."""
    metadata, tensors = before_offsets
    *steps, _, average, last = metadata["steps"]
    average |= {"input": 6, "output": 7}
    last |= {"input": 7, "output": 8}
    metadata["steps"] = [*steps, average, last]
    gone = ("fourth.weight", "fourth.basis", "fourth.scale", "n4.norm")
    return metadata, {k: v for k, v in tensors.items() if k not in gone}


def test_files_of_the_first_version_are_read(write, without_floats):
    metadata, tensors = without_floats
    logits = []
    for version in (1, 2):
        packed = open_packed(write({**metadata, "version": version}, tensors))
        assert packed.plan.format_version == to_json(packed.plan)["version"] == version
        logits.append(run(build_program(packed, *IMAGES.shape[2:]), IMAGES))
    np.testing.assert_array_equal(*logits)


def test_the_first_version_has_no_convolution_of_floats(write, before_offsets):
    metadata, tensors = before_offsets
    with pytest.raises(PackedFileError, match=r"step 5 \(fourth\): .* 4 is float, .*version 2 .*1"):
        open_packed(write({**metadata, "version": 1}, tensors))


def test_the_classifier_is_last_and_only_last(write, metadata):
    last = metadata["steps"].pop()
    with pytest.raises(
        PackedFileError, match="the last value must be a float one of 3 channels, the classes"
    ):
        open_packed(write(metadata))
    metadata["steps"] += [last, {**last, "input": 8, "output": 10}]
    with pytest.raises(PackedFileError, match="a linear step must be the last step"):
        open_packed(write(metadata))


@pytest.mark.parametrize(
    "name,change,message",
    [
        ("first.weight", lambda a: a[..., :3], r"must be int16 \(8, 3, 3, 4\)"),
        ("first.weight", lambda a: np.minimum(a, np.int16(-32768)), "values below -32767"),
        ("first.scale", lambda a: -a, "negative values"),
        ("first.bias", lambda a: a * np.float32(np.nan), "not finite"),
        ("first.bias", None, r"there is no tensor 'first\.bias'"),
        ("second.weight", lambda a: a[:, :, :4], r"must be uint8 \(2, 8, 8\)"),
        ("second.weight", lambda a: a ^ np.array([255] * 4 + [15] + [0] * 3, np.uint8), None),
        ("second.weight", lambda a: np.full_like(a, 255), "padding bits that are not 0"),
        ("second.weight", lambda a: a.view(np.int8), "must be uint8"),
        ("second.basis", lambda a: np.full_like(a, 64), "levels up to 128, at most 127 fit"),
        ("second.basis", lambda a: np.full_like(a, -128), "levels up to 256"),
        ("second.basis", lambda a: np.ones((8, 5), np.int8), "has 5 bits, at most 4"),
        ("second.basis", lambda a: np.ones((7, 2), np.int8), r"must be int8 \(8, any\)"),
        ("third.offset", None, r"'third\.basis' of int16 needs a tensor 'third\.offset'"),
        ("third.offset", lambda a: a.astype(np.int16), r"'third\.offset' must be int8 \(5,\)"),
        ("third.offset", lambda a: a[:4], r"'third\.offset' must be int8 \(5,\)"),
        ("third.offset", lambda a: np.full_like(a, -128), "levels up to 128, at most 127 fit"),
        ("third.offset", lambda a: np.full_like(a, 127), r"levels up to \d+, at most 127 fit"),
        ("third.basis", lambda a: a.astype(np.int8), r"'third\.basis' must be int16 \(5, any\)"),
        ("third.basis", lambda a: np.full_like(a, -32768), r"levels up to \d+, at most 127 fit"),
        ("third.basis", lambda a: np.full_like(a, 1), None),
        ("n1.norm", lambda a: -np.abs(a), "negative variance"),
        ("n1.norm", lambda a: a * np.float32(np.inf), "not finite"),
        ("n1.norm", lambda a: a[:, :1], r"must be float32 \(4, 2, 8\)"),
        ("last.weight", lambda a: a.astype(np.float32), "must be int8"),
        ("last.weight", lambda a: np.full_like(a, -128), "'last.weight' has values beyond 127"),
    ],
)
def test_tensors_that_do_not_fit_are_named(write, handmade, name, change, message):
    tensors = dict(handmade[1])
    if change is None:
        del tensors[name]
    else:
        with np.errstate(invalid="ignore"):
            tensors[name] = np.ascontiguousarray(change(tensors[name]))
    path = write(tensors=tensors)
    if message is None:
        assert opens_right_or_not_at_all(path)
    else:
        with pytest.raises(PackedFileError, match=message):
            open_packed(path)


def test_bytes_altered_under_a_repaired_checksum_do_no_harm(write):
    path = write()
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        altered = bytearray(data[:-4])
        for position in rng.integers(0, len(altered), rng.integers(1, 4)):
            altered[position] = rng.integers(0, 256)
        path.write_bytes(bytes(altered) + crc32(altered).to_bytes(4, "little"))
        outcomes.add(opens_right_or_not_at_all(path))
    assert outcomes == {True, False}


def test_accumulators_that_could_overflow_are_refused(write, metadata, handmade):
    # 31 x 31 x 256 products of up to 127 x 127 are 4 billion, more than 2**31.
    tensors = dict(handmade[1])
    metadata["quantizers"][0] = {"bits": 1, "basis": [127], "scale": 1.0}
    metadata["steps"][0] |= {"out_channels": 256, "norm": None, "eps": 0.0}
    tensors["first.weight"] = np.ones((256, 3, 3, 4), np.int16)
    tensors["first.scale"], tensors["first.bias"] = (np.ones(256, np.float32) for _ in range(2))
    del tensors["n1.norm"]
    metadata["steps"][3] |= {
        "in_channels": 256,
        "out_channels": 1,
        "groups": 1,
        "add": None,
        "kernel": [31, 31],
    }
    tensors["second.weight"] = np.zeros((1, 1, 31 * 31 * 256 // 8), np.uint8)
    tensors["second.basis"] = np.full((1, 1), 127, np.int8)
    with pytest.raises(PackedFileError, match="246016 products of up to 16129 overflow 32 bits"):
        open_packed(write(metadata, tensors))


def test_floats_that_would_keep_fewer_than_8_bits_are_refused(write, metadata, handmade):
    # 31 x 31 x 256 products of weights up to 127 leave 8 bits for 68.
    tensors = dict(handmade[1])
    metadata["steps"][3] |= {
        "out_channels": 256,
        "groups": 1,
        "add": None,
        "codes": None,
        "codes_norm": None,
        "codes_eps": 0.0,
        "quantizer": None,
        "float": 4,
        "in_channels": 8,
    }
    metadata["steps"][3:6] = [metadata["steps"][3], metadata["steps"][5]]
    metadata["steps"][4] |= {
        "in_channels": 256,
        "kernel": [31, 31],
        "padding": [15, 15],
        "add": None,
        "float": 5,
    }
    metadata["steps"][5] |= {"input": 5, "output": 6}
    metadata["steps"][6] |= {"input": 6, "output": 7}
    for part in ("weight", "basis", "offset", "scale", "bias"):
        del tensors[f"third.{part}"]
    del tensors["n2.norm"]
    rng = np.random.default_rng(0)
    tensors["second.weight"] = np.zeros((2, 256, 16), np.uint8)
    tensors["second.basis"] = rng.integers(-7, 8, (256, 2), dtype=np.int8)
    tensors["second.scale"] = np.full(256, 0.02, np.float32)
    tensors["fourth.weight"] = np.zeros((2, 5, 31 * 31 * 256 // 8), np.uint8)
    tensors["fourth.basis"] = np.full((5, 2), 30, np.int8)
    assert opens_right_or_not_at_all(write(metadata, tensors))
    tensors["fourth.basis"] = np.full((5, 2), 60, np.int8)
    with pytest.raises(PackedFileError, match="246016 products of up to 15240 overflow 32 bits"):
        open_packed(write(metadata, tensors))


def test_a_first_convolution_that_could_overflow_is_refused(write, metadata, handmade):
    # 17 x 17 x 4 products of up to 255 x 32767 are 9.7 billion.
    tensors = dict(handmade[1])
    metadata["steps"][0] |= {"kernel": [17, 17], "padding": [8, 8]}
    tensors["first.weight"] = np.full((8, 17, 17, 4), 32767, np.int16)
    with pytest.raises(PackedFileError, match="sums of up to 9659056260, which overflow 32 bits"):
        open_packed(write(metadata, tensors))


def test_many_wide_steps_are_refused_before_their_tables_are_made(write, metadata, handmade):
    tensors = dict(handmade[1])
    metadata["steps"][0] |= {"out_channels": 65536, "norm": None, "eps": 0.0}
    tensors["first.weight"] = np.ones((65536, 3, 3, 4), np.int16)
    tensors["first.scale"], tensors["first.bias"] = (np.ones(65536, np.float32) for _ in range(2))
    pool = metadata["steps"][1]
    metadata["steps"][1:-1] = [
        {**pool, "name": str(i), "input": i, "output": i + 1} for i in range(1, 200)
    ]
    with pytest.raises(PackedFileError, match="more than 1048576 channels in all"):
        open_packed(write(metadata, tensors))
