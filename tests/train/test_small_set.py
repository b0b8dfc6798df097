"""Small sets get settings that suit them, which the user is told and may change."""

import numpy as np
import pytest
from PIL import Image
from small_runs import Silent

from rsquant.config import PAPER_RESOLUTIONS
from rsquant.errors import ConfigError, DataError
from rsquant.recipes import paper_recipe
from rsquant.train import small_set, training
from rsquant.train.estimate import Estimate, duration
from rsquant.train.small_set import configure, small_recipe

PAPER = paper_recipe("resnet18", 2, 2)


def make(folder, classes=2, count=6):
    for part in ("train", "val"):
        for name in "abcde"[:classes]:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((32, 32, 3), 20 * i, np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(small_set, "processors", lambda: 2)


@pytest.mark.parametrize(
    "images,cores,gpu,epochs,batch,largest",
    [
        (600, 2, False, 50, 16, 96),
        (600, 1, False, 25, 16, 96),
        (40, 2, False, 120, 8, 96),
        (3800, 2, False, 15, 128, 96),
        (9469, 16, False, 25, 256, 128),
        (600, 64, False, 120, 16, 224),
        (600, 2, True, 120, 16, 224),
        (99_999, 2, True, 15, 256, 224),
    ],
)
def test_sizes_epochs_and_batch_follow_from_images_and_cores(
    images, cores, gpu, epochs, batch, largest
):
    config, line = small_recipe(PAPER, images, cores, gpu)
    train = config.train
    assert (train.epochs, train.batch) == (epochs, batch)
    assert config.model.resolutions[0] == largest
    assert (
        f"from {images} training images and" in line and f"{epochs} epochs, batch {batch}" in line
    )
    assert images < 200 or images // train.batch >= 20
    assert 0 < train.warmup < train.epochs


@pytest.mark.parametrize("arch", ["mobilenet_v2", "torchvision:inception_v3"])
def test_networks_that_need_larger_images_get_them(arch):
    config, _ = small_recipe(paper_recipe(arch, 2, 2), 600, 2)
    assert config.model.resolutions == (128, 96)
    assert config.train.lr < PAPER.train.lr


@pytest.mark.parametrize(
    "given,expected",
    [
        ({"train": {"epochs": 3}}, (3, 8, (96, 80, 64, 48, 32))),
        ({"train": {"batch": 4}}, (120, 4, (96, 80, 64, 48, 32))),
        ({"model": {"resolutions": (64, 32)}}, (120, 8, (64, 32))),
    ],
)
def test_flags_win_over_it(tmp_path, two_cores, given, expected):
    given = {**given, "data": {"source": str(make(tmp_path))}}
    config, lines, source = configure(None, given)
    assert (config.train.epochs, config.train.batch, config.model.resolutions) == expected
    assert "recipe for small sets, from 12 training images and 2 cores" in lines[0]
    assert lines[1:] or "batch 4" in lines[0]
    assert config.train.warmup <= config.train.epochs
    assert len(source.train) == 12


def test_a_recipe_file_and_a_large_set_and_the_generated_one_go_their_own_ways(
    tmp_path, two_cores, monkeypatch
):
    make(tmp_path)
    file = tmp_path / "c.yaml"
    file.write_text("train: {lr: 0.2}\n")
    data = {"data": {"source": str(tmp_path)}}
    config, lines, _ = configure(file, data)
    assert (config.train.batch, config.model.resolutions) == (256, PAPER_RESOLUTIONS)
    assert "recipe of the paper" in lines[0]
    monkeypatch.setattr(small_set, "SMALL", 12)
    assert configure(None, data)[0].train.batch == 256
    assert "built-in generated set" in configure(None, {})[1][0]


def test_wrong_settings_come_before_the_data_and_both_are_one_line(tmp_path):
    data = {"data": {"source": str(tmp_path / "none")}}
    with pytest.raises(ConfigError, match="schedule: must be"):
        configure(None, {**data, "train": {"schedule": "linear"}})
    with pytest.raises(DataError, match="is not a folder"):
        configure(None, data)


@pytest.mark.parametrize(
    "classes,batch,warnings",
    [
        (1, 2, ["has one class, a:", "only 3 steps"]),
        (2, 12, ["only 1 step:"]),
        (4, 2, []),
        (3, 8, ["only 2 steps"]),
    ],
)
def test_one_class_and_few_steps_are_warned_of(tmp_path, classes, batch, warnings):
    data = {"source": str(make(tmp_path / "set", classes)), "workers": 0}
    model = {"arch": "resnet18", "resolutions": (32,), "width": 4}
    train = {"epochs": 1, "batch": batch, "device": "cpu", "calibration": 0}
    config, _, source = configure(None, {"data": data, "model": model, "train": train})
    lines = []
    run, _ = training.start(config, Silent(), lines.append, "run", root=tmp_path, source=source)
    got = [line for line in lines if line.startswith("warning:")]
    assert len(got) == len(warnings)
    assert all(part in line for part, line in zip(warnings, got, strict=True))
    assert (run / "log.txt").read_text().count("warning:") == len(warnings)
    estimates = [line for line in lines if line.startswith("about ")]
    assert len(estimates) == (classes == 4)  # after the sixth step


def test_the_estimate_counts_all_steps_and_validations_and_leaves_the_first_step_out():
    estimate = Estimate(batch=10, val_images=60)
    lines = [estimate.step(s, 100 - i, 2) for i, s in enumerate([50, 1, 1, 3, 3, 2, 9, 9])]
    assert [line is not None for line in lines] == [False] * 5 + [True] + [False] * 2
    # 60 s so far, 95 steps of 2 s, two validations of 6 batches at 2 / 3 s each.
    assert lines[5].startswith("about 4 min for 101 steps and 2 validations")


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3570, "1 h 0 min"),
        (4800, "1 h 20 min"),
        (86_399, "1 d 0 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_times_are_said_in_two_units_at_most(seconds, text):
    assert duration(seconds) == text
