"""A run finds its data set from any folder, and no other one in its place."""

import shutil
from contextlib import suppress

import numpy as np
import pytest
import yaml
from PIL import Image
from shallow import RESNET10
from small_runs import Silent

from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig, load_yaml
from rsquant.data.fingerprint import fingerprint
from rsquant.data.sources import open_source
from rsquant.errors import CheckpointError, DataError
from rsquant.evaluate.images import validation_source
from rsquant.evaluate.report import source_of
from rsquant.runs import Checkpoint
from rsquant.train import training

MODEL = ModelConfig(RESNET10, 2, 2, (32,), width=4)
TRAIN = TrainConfig(epochs=1, batch=8, schedule="cosine", device="cpu", calibration=0)


class Stop(Silent):
    def advance(self, images, note):
        raise KeyError("killed")


def make(folder, names=("cat", "dog"), count=4):
    pixels = np.zeros((32, 32, 3), np.uint8)
    for part in ("train", "val"):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels + i).save(folder / part / name / f"{i}.png")
    return folder


def start(source, root, progress=None):
    config = RunConfig(MODEL, DataConfig(source, workers=0), TRAIN)
    run = root / "run"
    with suppress(KeyError):
        training.start(config, progress or Silent(), lambda line: None, "run", root=root)
    return run


def resume(run, data=None):
    lines = []
    training.resume(run, Silent(), lines.append, data=data)
    return lines


def checkpoint(run):
    return Checkpoint(run / runs.LAST, run)


def age(run, source):
    """Make it one of before fingerprints, with the set as typed."""
    raw = yaml.safe_load((run / runs.CONFIG).read_text())
    del raw["data"]["fingerprint"]
    raw["data"]["source"] = source
    (run / runs.CONFIG).write_text(yaml.safe_dump(raw))


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """A run that was killed in its first epoch, started in `here` with --data set."""
    make(tmp_path / "here" / "set")
    monkeypatch.chdir(tmp_path / "here")
    return start("set", tmp_path, Stop())


def test_a_run_continues_from_another_folder_even_where_another_set_has_that_name(
    cut, tmp_path, monkeypatch
):
    make(tmp_path / "there" / "set", ("ape", "bee"))
    monkeypatch.chdir(tmp_path / "there")
    resume(cut)
    assert load_yaml(cut / runs.CONFIG).data.source == str(tmp_path / "here" / "set")
    assert source_of(checkpoint(cut)).classes == ("cat", "dog")
    assert "changed" not in validation_source(checkpoint(cut), 2).what


@pytest.mark.parametrize("odd", ["my photographs", "Gänse", "a\udcffb", "link"])
def test_every_name_of_a_folder_is_kept(tmp_path, monkeypatch, odd):
    make(tmp_path / "real")
    if odd == "link":
        (tmp_path / odd).symlink_to("real")
    else:
        (tmp_path / "real").rename(tmp_path / odd)
    monkeypatch.chdir(tmp_path)
    run = start(odd, tmp_path)
    monkeypatch.chdir("/")
    assert len(source_of(checkpoint(run)).val) == 8


def test_a_set_that_was_moved_is_found_by_data_and_then_by_itself(cut, tmp_path, monkeypatch):
    shutil.move(tmp_path / "here" / "set", tmp_path / "new")
    with pytest.raises(DataError, match="set' is not a folder; give `data` a folder"):
        resume(cut)
    monkeypatch.chdir(tmp_path)
    resume(cut, "new")
    monkeypatch.chdir("/")
    assert load_yaml(cut / runs.CONFIG).data.source == str(tmp_path / "new")
    assert len(source_of(checkpoint(cut)).val) == 8


def renamed(folder):
    (folder / "val" / "dog" / "0.png").rename(folder / "val" / "dog" / "9.png")


def added(folder):
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "train" / "cat" / "9.png")


def moved_to_another_class(folder):
    (folder / "train" / "cat" / "3.png").rename(folder / "train" / "dog" / "4.png")


def class_renamed(folder):
    for part in ("train", "val"):
        (folder / part / "dog").rename(folder / part / "eel")


@pytest.mark.parametrize("change", [renamed, added, moved_to_another_class, class_renamed])
def test_another_set_is_refused_in_the_old_place_and_in_a_new_one(cut, tmp_path, change):
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "here" / "set", other)
    resume(cut, str(other))  # an equal one is the same
    before = (cut / runs.CONFIG).read_bytes()
    change(other)
    for data in (None, str(other)):
        with pytest.raises(
            CheckpointError, match=r"other does not have the class .* `data=DIR`"
        ) as error:
            resume(cut, data)
        assert "\n" not in str(error.value)
    assert (cut / runs.CONFIG).read_bytes() == before
    with pytest.raises(DataError, match=r"evaluate on the present images with `data='.*other'`"):
        source_of(checkpoint(cut))
    assert len(source_of(checkpoint(cut), str(other)).val) == 8
    assert "other, changed since training" in validation_source(checkpoint(cut), 2).what


@pytest.mark.parametrize("source,data", [("shapes", "here/set"), ("here/set", "shapes")])
def test_the_generated_set_and_files_are_not_taken_for_each_other(
    tmp_path, monkeypatch, source, data
):
    make(tmp_path / "here" / "set")
    monkeypatch.chdir(tmp_path)
    config = RunConfig(MODEL, DataConfig(source, workers=0, train_images=8, val_images=8), TRAIN)
    with pytest.raises(KeyError):
        training.start(config, Stop(), lambda line: None, "run", root=tmp_path)
    with pytest.raises(CheckpointError, match="does not have the class and image names"):
        resume(tmp_path / "run", data)


def test_a_run_of_an_older_version_continues_and_is_told_what_is_not_known(cut, tmp_path):
    age(cut, "set")
    assert "older version, which noted 'set' alone" in source_of(checkpoint(cut)).note
    lines = resume(cut)
    assert any("older version, which noted 'set' alone" in line for line in lines)
    assert len(source_of(checkpoint(cut)).val) == 8
    shutil.move(tmp_path / "here" / "set", tmp_path / "new")
    resume(cut, str(tmp_path / "new"))
    data = load_yaml(cut / runs.CONFIG).data
    assert (data.source, len(data.fingerprint)) == (str(tmp_path / "new"), 16)


def test_a_limit_does_not_change_the_fingerprint_and_a_folder_called_shapes_is_told_of(
    tmp_path, monkeypatch
):
    make(tmp_path / "shapes")
    whole = open_source(str(tmp_path / "shapes"))
    assert open_source(str(tmp_path / "shapes"), 0, 2, 2).fingerprint == whole.fingerprint
    monkeypatch.chdir(tmp_path)
    assert "the folder of that name is ./shapes" in open_source("shapes", 0, 2, 2).note
    assert open_source("./shapes").place == str(tmp_path / "shapes")


def test_no_two_lists_of_names_have_one_fingerprint():
    sets = [(["ab"], b"c"), (["a"], b"bc"), (["a", "b"], b"c"), (["ab", "c"], b""), (["ab"],)]
    prints = [fingerprint(*s) for s in sets]
    prints += [fingerprint(["a"], np.array(v, np.int32)) for v in ([1], [1, 0], [0, 1])]
    assert len(set(prints)) == len(prints)
    assert fingerprint(["a"], np.array([1], np.int32)) == fingerprint(["a"], np.array([1]))
