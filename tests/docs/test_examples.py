"""The scripts of docs/examples/ run, on a small network and a few pictures."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shallow  # noqa: F401  (ResNets of few blocks)
import torch
from PIL import Image
from shallow import RESNET10

import rsquant
from rsquant.packed.cascade import StageSpec
from rsquant.serve import Predictor, cascade

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQUANT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = rsquant.create(RESNET10, 2, 2, (48, 32), 2, width=4)
    network.spec = replace(network.spec, classes=("ant", "bee"))
    rsquant.pack(network, tmp_path / "net.rsq")
    return tmp_path / "net.rsq"


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ant/a.png", "ant/b.png", "bee/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("core", ["other", "same", "half"])
def test_the_camera_loop_runs_and_draws(model, photos, tmp_path, capsys, core, example):
    out, file = tmp_path / "camera.png", tmp_path / "camera.json"
    given = [str(model), str(photos), "--seconds", "0.4", "--busy", core, "--threads", "1"]
    rows = example("camera").main([*given, "--out", str(out), "--json", str(file)])
    assert [row.way for row in rows] == ["budget", "48", "32"]
    with Image.open(out) as picture:
        assert picture.size[0] > 500
    calls = json.loads(file.read_text())["calls"]
    assert {call["loaded"] for call in calls} == {False, True}
    assert {call["size"] for call in calls} <= {48, 32}
    assert "us a call" in capsys.readouterr().out


def test_the_camera_shows_each_half_all_photographs_so_many_times(model, photos, tmp_path, example):
    file = tmp_path / "camera.json"
    given = [str(model), str(photos), "--rounds", "4", "--no-fixed", "--threads", "1"]
    (row,) = example("camera").main([*given, "--json", str(file)])
    loaded = [call["loaded"] for call in json.loads(file.read_text())["calls"]]
    assert loaded == [False] * 12 + [True] * 12 and row.calls == 24


def test_shares_leave_out_the_first_calls_of_each_half(example):
    camera = example("camera")
    slow = camera.Call(0.0, 1.0, 48, True, False)
    fast = replace(slow, seconds=0.001, right=False)
    calls = [slow] * 10 + [fast] * 30
    calls += [replace(call, loaded=True) for call in [slow] * 15 + [fast] * 15]
    row = camera.summary("x", calls, 0.1)
    assert row.within == 45 / 50 and row.within_loaded == 15 / 20
    assert row.top1 == 25 / 70 and row.calls == 70


def test_photographs_are_sorted_as_the_cascade_says(model, photos, tmp_path, capsys, example):
    point = cascade.Point((StageSpec(32, 0.52), StageSpec(48, None)), 0.5, 1.0)
    cascade.store(model, point, [point], "photos", 3)
    (photos / "broken.jpg").write_bytes(b"x")
    out = tmp_path / "sorted"
    assert example("sort_photos").main([str(model), str(photos), str(out), "--least", "0.5"]) == 3
    captured = capsys.readouterr()
    assert "broken.jpg: not an image" in captured.err and " decided at " in captured.out
    predictor = Predictor(model, cascade=True, threads=1)
    expected = {
        Path(predictor(path).label) / path.relative_to(photos) for path in photos.rglob("*.png")
    }
    assert {path.relative_to(out) for path in out.rglob("*.png")} == expected
    with pytest.raises(SystemExit, match="exists already"):
        example("sort_photos").main([str(model), str(photos), str(out), "--least", "0.5"])
    assert example("sort_photos").main(
        [str(model), str(photos), str(tmp_path / "u"), "--least", "1.1"]
    )
    assert {
        path.relative_to(tmp_path / "u").parts[0] for path in (tmp_path / "u").rglob("*.png")
    } == {"unsure"}


def test_folders_of_classes_are_below_the_one_given_and_differ(example):
    names = ("../../x", "/etc/x", "a/b", "a_b", "unsure", "..", "", "cat 1.2")
    found = example("sort_photos").folders(names)
    assert all("/" not in one and one.strip(".") for one in found.values())
    assert len({*found.values(), "unsure"}) == len(names) + 1 and found["cat 1.2"] == "cat 1.2"
