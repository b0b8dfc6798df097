"""What the C library and Python measured is kept in one file, for the same kernels."""

import json
import re

import c_library
import every_operation
import handmade_network
import numpy as np

from rsquant.packed.file import open_packed
from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json
from rsquant.runtime import load, tuning
from rsquant.runtime.cpu import choice, timing

ROOT = c_library.ROOT


def test_both_know_the_kernels_by_one_version():
    source = (ROOT / "kernels" / "c" / "choice.cpp").read_text()
    (version,) = re.findall(r"kKernelsVersion = (\d+);", source)
    assert int(version) == choice.VERSION


def test_what_one_measures_the_other_knows(tmp_path, library, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(timing, "_CACHES", 2**16)
    monkeypatch.setattr(choice, "TUNE_SECONDS", 600)  # Python times all, however busy the machine
    plan, tensors = handmade_network.handmade()
    path, known = tmp_path / "x.rsq", tmp_path / "tuning.json"
    write_packed(path, tensors, {**to_json(plan), "version": c_library.VERSION})
    pixels = np.zeros((1, 3, 24, 24), np.uint8)
    expected = load(path, 1, isa="scalar", tune=True)(pixels)
    choices = json.loads(known.read_text())
    (mark,) = (key for key in choices if "|file " in key)
    # Without the mark of the file C looks at each convolution, and has none left to measure.
    known.write_text(json.dumps({key: kernel for key, kernel in choices.items() if key != mark}))
    for logits in c_library.in_threads([lambda: library.open(path, tune=1)(pixels)] * 3):
        np.testing.assert_array_equal(logits, expected)
    assert json.loads(known.read_text()) == choices
    assert sorted(tmp_path.iterdir()) == [known, path]
    known.unlink()
    np.testing.assert_array_equal(library.open(path, tune=1)(pixels), expected)
    measured = json.loads(known.read_text()).keys()
    assert mark in measured and measured <= choices.keys()  # on a busy machine not all


def test_each_setting_is_measured_when_it_is_first_used(tmp_path, library, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "TUNE_SECONDS", 0)
    path = every_operation.write(tmp_path, ("narrow",))["narrow"]
    ours, marks = load(path, 1, isa="scalar"), []
    for variant in open_packed(path).variants:
        ours.at(width=variant.width)
        marks.append(set(tuning.read()))
    tuning.cache_file().unlink()
    theirs = library.open(path, tune=1)
    for number, known in enumerate(marks):
        theirs.use(number)
        theirs(np.zeros((1, 3, 32, 32), np.uint8))
        measured = tuning.read()
        assert {key for key in measured if "|file " in key} == known
        assert all(measured[key] for key in measured.keys() - known)
