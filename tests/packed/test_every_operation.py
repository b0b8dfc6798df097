"""What a file may say of each operation: one table for all of them."""

import copy
import json
from pathlib import Path

import every_operation
import pytest

from rsquant.errors import ModelError, PackedFileError, RsquantError
from rsquant.packed.build import build_program
from rsquant.packed.fields import FieldError
from rsquant.packed.file import checked, open_packed
from rsquant.packed.format import read_packed
from rsquant.packed.ops.registry import operations
from rsquant.packed.schema import from_json

NETWORKS = ("gated", "pooled", "resized", "extended", "flat")
OPERATIONS = tuple(operations())
# Read codes as well as floats.
OF_CODES = ("conv", "function", "map", "maxpool")
# Other types, and ends of ranges.
ODD = (
    *(None, True, 0, 1, -1, 3, 65537, 2**31, 10**400, 0.0, -0.5, 1.5, 1e308, float("nan")),
    *("", "same", "\n\x1b[31m", [], {}, [1], [1, 2, 3], [None, None], [0, -1], [1e9, 1], [2, 2]),
)

CHANNELS = {
    "adaptive_avgpool": ({"input": 1}, r"adds float of 5 to 8 channels"),
    "adaptive_maxpool": ({"input": 1}, r"adds float of 8 to 5 channels"),
    "avgpool": ({"input": 1}, r"reads 5 and 8 channels"),
    "avgpool2d": ({"input": 1}, r"adds float of 5 to 8 channels"),
    "binary": (
        {"inputs": [6, 1]},
        r"reads 5 and 8 channels, which must be equal, or 1 in one of them",
    ),
    "channels": ({"first": 3, "count": 3}, r"channels"),
    "concat": ({"inputs": [1, 14]}, r"reads 10 channels, in_channels=7"),
    "conv": ({"in_channels": 7}, r"reads 8 channels, in_channels=7"),
    "extend": ({"input": 1}, r"adds float of 5 to 8 channels"),
    "flatten": ({"pixels": [3, 3]}, r"reads 63 channels, in_channels=42"),
    "function": ({"input": 1}, r"reads 8 and 5 channels"),
    "linear": ({"in_features": 15}, r"reads 16 channels, in_features=15"),
    "map": ({"input": 3}, r"reads 5 channels, in_channels=8"),
    "maxpool": ({"input": 1}, r"adds float of 8 to 5 channels"),
    "pad": ({"channels": [1, 0]}, r"reads 6 channels, in_channels=5"),
    "resize": ({"input": 1}, r"adds float of 8 to 5 channels"),
}


class File:
    """A packed file, and its changes in memory."""

    def __init__(self, path):
        self.tensors, self.metadata = read_packed(Path(path))
        self.values = open_packed(path).values
        self.names = [step["op"] for step in self.metadata["steps"]]

    def place(self, op):
        """Where the operation stands; a convolution of the image is one of its own."""
        first = self.names.index(op)
        return first if op != "conv" else self.names.index(op, first + 1)

    def step(self, op):
        return self.metadata["steps"][self.place(op)]

    def opened(self, op, step):
        """The file with another step in the place of the first of an operation."""
        metadata = copy.copy(self.metadata)
        metadata["steps"] = [*metadata["steps"]]
        metadata["steps"][self.place(op)] = step
        return checked(Path("x.rsq"), from_json(metadata), self.tensors)

    def reading(self, op, value):
        """The step, reading another value first."""
        step = self.step(op)
        key = "input" if "input" in step else "inputs"
        return step | {key: value if key == "input" else [value, *step["inputs"][1:]]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By operation."""
    paths = every_operation.write(tmp_path_factory.mktemp("packed"), NETWORKS)
    opened = [File(path) for path in paths.values()]
    return {op: next(file for file in opened if op in file.names) for op in OPERATIONS}


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_value_that_is_not_written_yet_is_named(op, files):
    file = files[op]
    for value in (len(file.values) - 1, len(file.values) + 5):
        with pytest.raises(FieldError, match=f": reads value {value} before it is written"):
            file.opened(op, file.reading(op, value))


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_value_of_another_kind_is_refused(op, files):
    file = files[op]
    image = r"integer from 1|only a convolution can read the image|reads 4 channels, in_channels=8"
    with pytest.raises(FieldError, match=image):
        file.opened(op, file.reading(op, 0))
    if op not in OF_CODES:
        codes = next(n for n, value in enumerate(file.values) if value.kind == "codes")
        message = rf"needs a float value( or bytes)?, {codes} is codes"
        if op == "linear":  # an integer network's reads them
            message = r"step \d+ \(fc\): integer arithmetic exists from version 5 of the format on"
        with pytest.raises(FieldError, match=message):
            file.opened(op, file.reading(op, codes))


@pytest.mark.parametrize("op", OPERATIONS)
def test_channels_that_do_not_match_are_named(op, files):
    change, message = CHANNELS[op]
    with pytest.raises(FieldError, match=message):
        files[op].opened(op, files[op].step(op) | change)


@pytest.mark.parametrize("op", OPERATIONS)
def test_each_field_is_refused_by_name_or_means_what_it_says(op, files):
    """Nothing is guessed: a file that opens says the same when it is written again."""
    file = files[op]
    step, place = file.step(op), file.place(op)
    # What ends in an epilogue has the same fields for it.
    shared = set(files["map"].step("map")) - {"name", "input"} if op != "map" else {"op"}
    own = [field for field in step if field not in shared]
    changes = [step | {field: odd} for field in own for odd in ODD]
    changes += [{k: v for k, v in step.items() if k != field} for field in own]
    changes += [step | {"surplus": 0}]
    refused = 0
    for changed in changes:
        try:
            packed = file.opened(op, changed)
        except FieldError as error:
            message = str(PackedFileError(str(error)))
            assert message.isprintable() and len(message) < 400
            refused += 1
            continue
        assert same(packed.plan.steps[place].to_json(), changed), changed
        try:
            build_program(packed, 16, 16)
        except RsquantError as error:
            assert str(error).isprintable()
    assert refused > 0.8 * len(changes)


def same(one, other):
    """As JSON: true is not 1."""
    return json.dumps(floats(one), sort_keys=True) == json.dumps(floats(other), sort_keys=True)


def floats(value):
    if isinstance(value, dict):
        return {key: floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [floats(one) for one in value]
    return float(value) if type(value) is int else value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [6, 3]}, "multiplies maps of 16x16 and 8x8 pixels"),
        ({"inputs": [3, 6], "function": "add"}, "adds maps of 8x8 and 16x16 pixels"),
    ],
)
def test_maps_of_two_sizes_do_not_multiply(change, message, files):
    file = files["binary"]
    packed = file.opened("binary", file.step("binary") | change)
    with pytest.raises((PackedFileError, ModelError), match=message):
        build_program(packed, 16, 16)
