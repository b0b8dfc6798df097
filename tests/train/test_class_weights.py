"""Weights of classes, and callbacks, in whole runs."""

import dataclasses
from types import SimpleNamespace

import map_set
import numpy as np
import pytest
import shallow  # noqa: F401  (ResNet-10)
import torch
from PIL import Image
from small_runs import Silent

from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from rsquant.data.label_maps import decode_numbers
from rsquant.errors import ConfigError, DataError
from rsquant.train import training
from rsquant.train.callbacks import Callback, Callbacks, named_callback
from rsquant.train.class_weights import check_class_weights, class_weights
from rsquant.train.metrics import read_metrics


class Split:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def label(self, i):
        return self.labels[i]


def source(labels, classes=("ant", "bee", "cat")):
    return SimpleNamespace(train=Split(labels), classes=classes, name="set")


def test_balanced_weights_count_every_class_alike():
    labels = [0] * 6 + [1] * 3
    weights = class_weights("balanced", source(labels))
    assert weights.tolist() == pytest.approx([9 / (3 * 6), 9 / (3 * 3), 0])
    assert class_weights("none", source(labels)) is None


def test_named_weights():
    weights = class_weights("cat=4,bee=0.5", source([0, 0, 1, 2]))
    mean = (1 + 1 + 0.5 + 4) / 4
    assert weights.tolist() == pytest.approx([1 / mean, 0.5 / mean, 4 / mean])
    with pytest.raises(ConfigError, match="no training label has a weight above 0"):
        class_weights("ant=0", source([0, 0]))


def test_pixels_count_where_labels_are_maps():
    labels = [torch.tensor([[0, 0, 255], [1, 255, 0]]), torch.tensor([[0, 1, 255]])]
    maps = source([label.to(torch.uint8) for label in labels])
    weights = class_weights("balanced", maps)
    assert weights.tolist() == pytest.approx([6 / (3 * 4), 6 / (3 * 2), 0])
    mean = (4 * 1 + 2 * 3) / 6
    weights = class_weights("bee=3", maps)
    assert weights.tolist() == pytest.approx([1 / mean, 3 / mean, 1 / mean])
    unread = source([None] * 2)
    assert torch.equal(class_weights("bee=3", unread, torch.tensor([4, 2, 0])), weights)
    ignored = source([torch.full((2, 2), 255, dtype=torch.uint8)])
    for given in ("balanced", "bee=3"):
        with pytest.raises(ConfigError, match="no training label has a weight above 0"):
            class_weights(given, ignored)


@pytest.mark.parametrize("text", ["heavy", "ant=", "ant=-1", "ant=nan", "=2", "ant=1,ant=2", ""])
def test_what_is_no_weight(text):
    with pytest.raises(ConfigError, match="class_weights: must be none, balanced or NAME=WEIGHT"):
        check_class_weights(text)


def test_classes_that_are_not_there_and_labels_that_are_no_class():
    with pytest.raises(ConfigError, match="set has no class 'bea'; did you mean 'bee'"):
        class_weights("bea=2", source([0]))
    with pytest.raises(ConfigError, match="'balanced' needs one class for each image or pixel"):
        class_weights("balanced", source([torch.zeros(3)]))


CONFIG = RunConfig(
    ModelConfig("resnet18", 32, 32, (32, 24), width=8),
    DataConfig("shapes", workers=0, train_images=24, val_images=12),
    TrainConfig(epochs=2, batch=8, lr=0.01, device="cpu"),
)


class Heard(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, run, config):
        self.calls.append(("start", run.name, config["train"]["epochs"]))

    def on_step(self, epoch, step, figures):
        self.calls.append(("step", epoch, step, figures["loss"]))

    def on_epoch(self, epoch, row):
        self.calls.append(("epoch", epoch, row["train_loss"]))

    def on_end(self, finished):
        self.calls.append(("end", finished))


def test_callbacks_hear_of_everything_once(tmp_path):
    heard = Heard()
    run, _ = training.start(
        CONFIG, Silent(), lambda line: None, "run", root=tmp_path, callbacks=[heard]
    )
    kinds = [call[:-1] if call[0] in ("step", "epoch") else call for call in heard.calls]
    steps = [[("step", epoch, step) for step in (1, 2, 3)] for epoch in (1, 2)]
    expected = [*steps[0], ("epoch", 1), *steps[1], ("epoch", 2)]
    assert kinds == [("start", "run", 2), *expected, ("end", True)]
    losses = [call[3] for call in heard.calls if call[0] == "step"]
    rows = read_metrics(run)
    assert sum(losses[:3]) / 3 == pytest.approx(float(rows[0]["train_loss"]), rel=1e-5)


@pytest.mark.parametrize("stop_after", [2, 3])
def test_callbacks_hear_of_a_stop_and_of_going_on(tmp_path, stop_after):
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        training.start(
            CONFIG, Silent(stop_after), lambda line: None, "run", root=tmp_path, callbacks=[heard]
        )
    assert heard.calls[-1] == ("end", False)
    more = Heard()
    training.resume(tmp_path / "run", Silent(), lambda line: None, callbacks=[more])
    steps = [call[1:3] for call in (*heard.calls, *more.calls) if call[0] == "step"]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert more.calls[-1] == ("end", True)


class Failing(Callback):
    def on_end(self, finished):
        raise ValueError("no room")


def test_all_hear_of_the_end():
    heard = Heard()
    with pytest.raises(ValueError, match="no room"):
        Callbacks([Failing(), heard]).on_end(True)
    assert heard.calls == [("end", True)]


def test_what_stops_a_training_is_told_though_a_callback_fails_after_it(tmp_path):
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        training.start(
            CONFIG,
            Silent(2),
            lambda line: None,
            "run",
            root=tmp_path,
            callbacks=[Failing(), heard],
        )
    assert heard.calls[-1] == ("end", False)
    with pytest.raises(ValueError, match="no room"):
        training.resume(tmp_path / "run", Silent(), lambda line: None, callbacks=[Failing()])


def test_a_name_means_a_class_or_an_object(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(Heard=Heard, heard=Heard()))
    assert isinstance(named_callback("mine:Heard"), Heard)
    assert named_callback("mine:heard") is sys.modules["mine"].heard


def test_weights_and_freezing_are_part_of_a_run(tmp_path):
    train = dataclasses.replace(CONFIG.train, epochs=1, class_weights="balanced", freeze=("fc",))
    config = dataclasses.replace(CONFIG, train=train)
    lines = []
    run, _ = training.start(config, Silent(), lines.append, "run", root=tmp_path)
    assert any("frozen 2 tensors" in line and line.endswith("fc") for line in lines)
    text = (run / runs.CONFIG).read_text()
    assert "class_weights: balanced" in text and "- fc" in text


def test_the_loss_keeps_its_weights_when_bits_change_and_a_run_goes_on(tmp_path, monkeypatch):
    used = []

    class Recording(training.Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            used.append((self.phase.bits, self.step.task.weights.tolist()))

    monkeypatch.setattr(training, "Trainer", Recording)
    shapes = training.open_data(CONFIG)
    given = f"{shapes.classes[1]}=3"
    train = dataclasses.replace(CONFIG.train, class_weights=given, bits_schedule="3:1,2")
    model = dataclasses.replace(CONFIG.model, wbits=2, abits=2)
    config = dataclasses.replace(CONFIG, model=model, train=train)
    with pytest.raises(KeyboardInterrupt):
        training.start(config, Silent(3), lambda line: None, "run", root=tmp_path)
    training.resume(tmp_path / "run", Silent(), lambda line: None)
    assert [bits for bits, _ in used] == [3, 3, 2]
    expected = class_weights(given, shapes).tolist()
    assert all(weights == expected for _, weights in used) and len(set(expected)) == 2


class FirstStep(Callback):
    def __init__(self, read):
        self.read, self.before = read, []

    def on_start(self, run, config):
        self.before = list(self.read)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_each_label_file_is_read_once_before_the_first_step(tmp_path, monkeypatch, weights):
    folder = map_set.write_set(tmp_path / "set")
    read = []

    def decode(path):
        read.append(path)
        return decode_numbers(path)

    monkeypatch.setattr("rsquant.data.map_split.decode_numbers", decode)
    model = ModelConfig("refinenet_lw_bn_resnet10", 32, 32, (48, 32), width=4, task="segmentation")
    data = DataConfig(str(folder), workers=0)
    train = TrainConfig(epochs=1, batch=4, device="cpu", class_weights=weights)
    heard = FirstStep(read)
    config = RunConfig(model, data, train)
    training.start(config, Silent(), lambda line: None, "run", root=tmp_path, callbacks=[heard])
    assert sorted(heard.before) == [str(folder / "labels" / f"frame_{i}.png") for i in range(6)]


def test_labels_are_checked_before_they_are_counted(tmp_path):
    folder = map_set.write_set(tmp_path / "set")
    for i in range(4):
        Image.fromarray(np.full((36, 48), 2, np.uint8)).save(folder / "labels" / f"frame_{i}.png")
    model = ModelConfig("refinenet_lw_bn_resnet10", 32, 32, (32,), width=4, task="segmentation")
    train = dataclasses.replace(CONFIG.train, class_weights="balanced")
    config = RunConfig(model, DataConfig(str(folder), workers=0), train)
    with pytest.raises(DataError, match="all 4 label maps of this part have ignored pixels alone"):
        training.start(config, Silent(), lambda line: None, "run", root=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"freeze": ("layr1",)}, "freeze: 'layr1' matches no layer"),
        ({"class_weights": "caat=2"}, "has no class 'caat'"),
        ({"init": "run", "exist": True}, "init: .* is of the run that this one would replace"),
        (
            {"teacher": "run", "exist": True},
            "teacher: .* is of the run that this one would replace",
        ),
    ],
)
def test_what_cannot_be_trained_replaces_no_run(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    short = dataclasses.replace(CONFIG.train, epochs=1)
    run, _ = training.start(
        dataclasses.replace(CONFIG, train=short), Silent(), lambda line: None, "run", root=root
    )
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    changes = {key: value for key, value in changes.items() if key != "exist"}
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(short, **changes))
    with pytest.raises(ConfigError, match=message):
        training.start(config, Silent(), lambda line: None, "run", exist_ok=True, root=root)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
