"""What `rsquant info FILE.rsq` tells, against the file itself."""

import json
import os
import subprocess
import sys

import every_operation
import numpy as np
import pytest

from rsquant.errors import PackedFileError
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed
from rsquant.report.packed import lines, report

NAMES = ("small", "gated", "resized")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return every_operation.write(tmp_path_factory.mktemp("packed"), NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_belongs_to_one_part(name, paths):
    told = report(open_packed(paths[name]))
    assert sum(part.bytes for part in told.parts) == os.path.getsize(paths[name])
    assert told.network.bytes == os.path.getsize(paths[name])
    tensors, _ = read_packed(paths[name])
    sizes = {part.name: part.bytes for part in told.parts}
    planes = [array.nbytes for array in tensors.values() if array.dtype == np.uint8]
    assert sizes["low-bit weights"] == sum(planes)
    norms = [array.nbytes for key, array in tensors.items() if key.endswith(".norm")]
    assert sizes["BatchNorms"] == sum(norms)
    own = sum(row.bytes for row in told.operations)
    assert own == sum(array.nbytes for array in tensors.values()) - sum(norms)


def test_operations_say_what_they_read_and_write(paths):
    told = report(open_packed(paths["gated"]))
    rows = {row.name: row for row in told.operations}
    assert [row.op for row in told.operations].count("function") == 4
    stem, gate, low, fc = (rows[name] for name in ("stem", "mul", "strided", "fc"))
    assert (stem.input, stem.wbits, stem.shape) == (("image",), 16, (8, 4, 3, 3))
    assert stem.output == ("8 x float", "8 x 2 bits")
    assert (low.input, low.wbits, low.shape) == (("2 bits",), 2, (5, 8, 3, 3))
    assert (gate.input, gate.wbits, gate.shape, gate.bytes) == (("float", "float"), 0, (), 0)
    assert (fc.wbits, fc.shape, fc.output) == (8, (4, 16), ("4 x float",))
    # A map resized to the size of another reads that too.
    rows = {row.name: row for row in report(open_packed(paths["resized"])).operations}
    assert rows["interpolate"].input == ("float", "2 bits")


def test_quantizers_are_listed_with_their_levels(paths):
    packed = open_packed(paths["gated"])
    told = report(packed)
    for row, spec in zip(told.quantizers, packed.plan.quantizers, strict=True):
        assert (row.bits, row.scale, list(row.levels)) == (spec.bits, spec.scale, list(spec.levels))
    assert sum(row.values for row in told.quantizers) == sum(
        value.kind == "codes" for value in packed.values
    )


def test_the_table_and_the_file_have_the_same_without_torch(paths, tmp_path):
    code = (
        "import sys; sys.argv[0] = 'rsquant'; from rsquant.__main__ import main\n"
        "sys.modules['torch'] = None; main()"
    )
    command = [sys.executable, "-c", code, "info", paths["gated"], "--json", "i.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = report(open_packed(paths["gated"]))
    assert done.stdout.splitlines()[:-1] == lines(told)
    assert "custom W2A2, grid coarse, resolutions 32, 24, 4 classes" in done.stdout
    rows = json.loads((tmp_path / "i.json").read_text())["rows"]
    assert rows == json.loads(json.dumps(told.rows()))
    assert [row["kind"] for row in rows].count("operation") == len(told.operations)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "x.rsq").write_bytes(b"nothing")
    with pytest.raises(PackedFileError, match=r"x\.rsq"):
        report(open_packed(tmp_path / "x.rsq"))
