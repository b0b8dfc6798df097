"""rsq-fuzz, which `make fuzz` runs under sanitizers: its files, and what it says of them."""

import subprocess

import c_library
import handmade_network
import integer_networks
import numpy as np
import pytest

from rsquant.packed.format import write_packed
from rsquant.packed.schema import to_json

KINDS = ("fields", "structure", "values", "tensors", "bytes", "cut")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two packed files."""
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    folder.mkdir()
    networks = {"a": handmade_network.handmade(), "b": integer_networks.every_step()}
    for name, (plan, tensors) in networks.items():
        described = to_json(plan) | {"version": c_library.VERSION}
        write_packed(folder / f"{name}.rsq", tensors, described)
    return folder


def fuzz(folder, *numbers):
    """Files by what was altered (rows) and outcome (columns: ran, argument, file, ...)."""
    command = [c_library.build() / "rsq-fuzz", folder, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    return np.array([rows[kind] for kind in KINDS], int)


def test_many_altered_files_run_and_none_fails(folder):
    outcomes = fuzz(folder, 600)
    assert outcomes.sum() == 600
    assert outcomes[:, 0].sum() > 180
    assert (outcomes.sum(1) > 10).all()


def test_a_file_depends_on_its_number_and_seed_alone(folder):
    parts = fuzz(folder, 50, 0) + fuzz(folder, 150, 50)
    np.testing.assert_array_equal(parts, fuzz(folder, 200))
    assert (fuzz(folder, 200, 0, 1) != parts).any()


def test_a_folder_without_packed_files_is_refused(tmp_path):
    (tmp_path / "x.rsq").write_bytes(b"x" * 100)
    command = [c_library.build() / "rsq-fuzz", tmp_path, "10"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "not a packed file" in done.stderr
