"""Files that an older version wrote are read, mean what they meant, and runs go on.

`older/before_tasks` was written by rsquant at dc9238f, where sizes were all that a network could
switch and classes all that it could tell: a ResNet of width 1, W2A2 at 32 and 24 pixels, whose
training was stopped in the middle of its second epoch; the metrics of the same training not
stopped; its packed file; a network of two paths at 32 pixels; and the logits they gave.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from shallow import RESNET10
from small_runs import Silent

import rsquant
from rsquant import config, runs, runtime
from rsquant.data.transforms import normalise
from rsquant.evaluate.report import evaluate_checkpoint
from rsquant.settings import Setting
from rsquant.train import training

OLD = Path(__file__).parent / "older" / "before_tasks"
LOGITS = json.loads((OLD / "logits.json").read_text())


def pixels(size):
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


def same(logits, expected):
    """Up to the rounding of sums in float32; no value of these lies so near a threshold."""
    expected = torch.tensor(expected)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_a_checkpoint_gives_the_logits_it_gave():
    network = rsquant.load(OLD / "run" / runs.BEST)
    assert network.settings == (Setting(32), Setting(24))
    assert (network.spec.arch, network.spec.classes[0]) == (RESNET10, "arrow")
    # Between the two sizes: both rows are read.
    same(network(normalise(torch.from_numpy(pixels(28)))), LOGITS["best"])


@torch.no_grad()
def test_paths_at_one_size_keep_their_rows():
    network = rsquant.load(OLD / "paths.safetensors")
    assert network.settings == (Setting(32), Setting(32))
    image = normalise(torch.from_numpy(pixels(32)))
    for logits, expected in zip(network.forward_all([image] * 2), LOGITS["paths"], strict=True):
        same(logits, expected)


def test_a_packed_file_gives_the_logits_it_gave():
    session = runtime.load(OLD / "run" / "resnet10_w2a2.rsq", threads=1, tune=False)
    np.testing.assert_array_equal(session(pixels(28)), np.float32(LOGITS["rsq"]))


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "run", tmp_path / "run")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stopped_run_goes_on_to_where_it_would_have_ended(run):
    training.resume(run, Silent(), lambda line: None)
    expected, got = rows(OLD / "whole_metrics.csv"), rows(run / runs.METRICS)
    assert list(got[0]) == list(expected[0])  # the same columns in the same order
    assert got[0] == rows(OLD / "run" / runs.METRICS)[0]
    assert len(got) == 2
    # Another machine may round a sum otherwise, and a value at a threshold with it.
    assert float(got[1]["lr"]) == float(expected[1]["lr"])
    assert float(got[1]["train_loss"]) == pytest.approx(float(expected[1]["train_loss"]), rel=0.01)


def test_a_run_is_evaluated_as_it_was(run):
    found = evaluate_checkpoint(
        runs.resolve(run),
        (32, 24),
        data=None,
        val_images=None,
        batch=16,
        workers=0,
        device="cpu",
        progress=Quiet(),
    ).rows
    recorded = rows(OLD / "run" / runs.METRICS)[0]
    for row in found:
        size = row["resolution"]
        assert row["loss"] == pytest.approx(float(recorded[f"val_loss_{size}"]), rel=1e-5)
        assert row["top1"] == pytest.approx(float(recorded[f"val_top1_{size}"]), rel=1e-5)


class Quiet(Silent):
    def advance(self, images, note=""):
        pass

    def echo(self, line):
        pass


def test_its_configuration_is_read():
    assert config.load_run(OLD / "run" / runs.CONFIG).model.resolutions == (32, 24)
