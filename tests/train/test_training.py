"""Whole runs on the built-in set: what they leave, and exact continuation."""

import csv
import dataclasses
import os

import numpy as np
import pytest
import torch
from PIL import Image
from shallow import RESNET10
from small_runs import CONFIG, Silent, state, train

import rsquant
from rsquant import runs
from rsquant.config import DataConfig, ModelConfig, RunConfig
from rsquant.errors import CheckpointError, ConfigError, DataError, RsquantError
from rsquant.evaluate.report import evaluate_checkpoint
from rsquant.report.plots import training_curves
from rsquant.train import loop, training
from rsquant.train.metrics import read_metrics
from rsquant.train.state import TrainingState

SHORT = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return root / "whole", train(root, "whole")


def test_a_run_leaves_its_files_and_a_row_per_epoch(whole):
    run, lines = whole
    found = {p.name for p in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "log.txt", runs.BEST, runs.LAST, runs.STATE} <= found
    assert any(name.startswith("events.out.tfevents") for name in found)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    for column in (
        "val_top1_48",
        "val_top5_32",
        "val_loss_32",
        "val_top1_ensemble",
        "train_loss",
        "train_distillation",
        "alpha_48",
        "alpha_32",
        "lr",
    ):
        assert all(row[column] for row in rows)
    assert float(rows[0]["alpha_48"]) + float(rows[0]["alpha_32"]) == pytest.approx(1, abs=1e-5)
    assert any("stem 'small'" in line for line in lines)
    assert rsquant.load(run / runs.BEST).spec.classes


# After step 2 of epoch 2; in the validation of epoch 2; after the very first step.
@pytest.mark.parametrize("stop_after", [7, 9, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_run_continues_bit_for_bit(whole, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(whole[0]), state(tmp_path / "cut")
    assert expected[0].keys() == got[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(tensor, got[0][name]), name
    progress = [dict(m["progress"]) for m in (expected[1], got[1])]
    assert progress[0] == progress[1]
    same = [
        c
        for c in (whole[0] / "metrics.csv").read_text().splitlines()[0].split(",")
        if "second" not in c and "per_s" not in c
    ]
    tables = []
    for run in (whole[0], tmp_path / "cut"):
        with (run / "metrics.csv").open(newline="") as file:
            tables.append([[row[c] for c in same] for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def test_a_finished_run_says_so_and_changes_nothing(whole):
    before = (whole[0] / runs.STATE).read_bytes()
    lines = []
    _, result = training.resume(whole[0], Silent(), lines.append)
    assert result is None
    assert "all 3 epochs are done already" in lines[-1]
    assert (whole[0] / runs.STATE).read_bytes() == before


def test_runs_are_not_overwritten_unless_told(whole, tmp_path):
    root = whole[0].parent
    with pytest.raises(ConfigError, match="exists already; choose another `name`"):
        train(root, "whole")
    one = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, train_images=16, val_images=4),
        train=dataclasses.replace(CONFIG.train, epochs=1, calibration=0),
    )
    for _ in range(2):
        training.start(one, Silent(), lambda line: None, root=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["resnet10_w2a2", "resnet10_w2a2-2"]
    training.start(one, Silent(), lambda line: None, "resnet10_w2a2", True, root=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["resnet10_w2a2", "resnet10_w2a2-2"]


def test_a_folder_of_runs_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be written"):
        train(tmp_path / "runs", None)


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/../../x", "a//b", "a\0", "a\nb"])
def test_a_run_has_its_folder_below_runs(tmp_path, name):
    with pytest.raises(ConfigError, match="name: must be"):
        train(tmp_path / "runs", name)
    assert not any(tmp_path.iterdir())


def test_a_damaged_or_foreign_state_is_refused(whole, tmp_path):
    with pytest.raises(CheckpointError, match="no run to resume"):
        training.resume(tmp_path, Silent(), lambda line: None)
    for name in (runs.CONFIG, runs.STATE):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    text = (tmp_path / runs.CONFIG).read_text()
    (tmp_path / runs.CONFIG).write_text(text.replace("width: 4", "width: 8"))
    with pytest.raises(CheckpointError, match="has a different architecture"):
        training.resume(tmp_path, Silent(), lambda line: None)
    (tmp_path / runs.STATE).write_bytes((whole[0] / runs.STATE).read_bytes()[:500])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        training.resume(tmp_path, Silent(), lambda line: None)


@pytest.mark.parametrize(
    "section,key,value,message",
    [
        ("train", "epochs", 0, "train.epochs: must be 1 to 100000, got 0"),
        ("train", "lr", 0.0, "train.lr: must be above 0 and at most 1000, got 0.0"),
        ("train", "lr", float("nan"), "train.lr: must be above 0 and at most 1000, got nan"),
        (
            "train",
            "momentum",
            float("nan"),
            "train.momentum: must be 0 or more and below 1, got nan",
        ),
        ("train", "weight_decay", float("inf"), "train.weight_decay: must be 0 to 10, got inf"),
        ("train", "warmup", -1.0, "train.warmup: must be 0 to 100000, got -1.0"),
        ("train", "batch", 10**12, "train.batch: must be 2 to 65536, got 1000000000000"),
        ("data", "area", (float("nan"), 1.0), "data.area: must be above 0 and at most 1, got nan"),
        ("model", "width", 10**12, "model.width: must be 1 to 2048"),
        ("train", "seed", -1, "seed: must be 0 to"),
        ("data", "train_images", 1, "BatchNorm needs 2 or more"),
        ("train", "device", "tpu9", "device: 'tpu9' cannot be used here"),
        ("train", "distillation", "ful", "distillation: must be one of"),
        ("train", "amp", "fp8", "amp: must be none, bf16 or fp16, got 'fp8'"),
        ("train", "accumulate", 0, "train.accumulate: must be 1 to 65536, got 0"),
        (
            "train",
            "accumulate",
            9,
            "accumulate: must leave 2 images or more to a part of the batch",
        ),
        ("train", "basis_updates", "some", "basis_updates: must be all or largest"),
        ("data", "area", (0.9, 0.1), "area: must be two shares"),
        ("data", "crop", "double", "crop: must be single or multi"),
        ("model", "arch", "resnet19", "did you mean"),
        ("model", "wbits", 7, "wbits: must be 1, 2, 3, 4, or 32"),
        ("model", "resolutions", (48, 32, 32), "must be different .* or all the same one, got"),
        ("model", "individual", 0, "model.individual: must be 1 to 4096, got 0"),
        ("model", "individual", 8, "resolution 8 is smaller than the network's stride of 16"),
        ("model", "resolutions", (48, 8), "smaller than the network's stride"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path, section, key, value, message
):
    wrong = dataclasses.replace(getattr(CONFIG, section), **{key: value})
    with pytest.raises(RsquantError, match=message):
        train(tmp_path, "x", config=dataclasses.replace(CONFIG, **{section: wrong}))
    assert os.listdir(tmp_path) == []


def test_a_crash_between_the_checkpoints_and_the_state_redoes_the_epoch(
    whole, tmp_path, monkeypatch
):
    original = TrainingState.save

    def fail_after_epoch_two(self, path):
        if self.epoch == 2:
            raise OSError("pulled the plug")
        original(self, path)

    monkeypatch.setattr(TrainingState, "save", fail_after_epoch_two)
    with pytest.raises(OSError, match="plug"):
        train(tmp_path, "cut")
    monkeypatch.setattr(TrainingState, "save", original)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    for name, tensor in state(whole[0])[0].items():
        assert torch.equal(tensor, state(tmp_path / "cut")[0][name]), name
    with (tmp_path / "cut" / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_layers_that_draw_random_numbers_continue_exactly_too(tmp_path, monkeypatch):
    original = loop.Trainer._step

    def step(self, images, labels, rate, sums):
        original(self, images, labels, rate, sums)
        sums["drawn"] = sums.get("drawn", 0.0) + float(torch.rand(1))

    monkeypatch.setattr(loop.Trainer, "_step", step)
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=2))
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 7, config)
    torch.manual_seed(99)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    drawn = [[r["train_drawn"] for r in read_metrics(tmp_path / n)] for n in ("whole", "cut")]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 2


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 3)
    path = tmp_path / "cut" / runs.CONFIG
    path.write_text(path.read_text().replace("train_images: 48", "train_images: 47"))
    with pytest.raises(CheckpointError, match="the data set has changed since"):
        training.resume(tmp_path / "cut", Silent(), lambda line: None)


def test_a_run_with_a_scaled_loss_and_parts_continues_bit_for_bit(tmp_path):
    changes = {"epochs": 1, "amp": "fp16", "accumulate": 2, "recompute": True}
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))
    train(tmp_path, "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 2, config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    states = [state(tmp_path / name)[0] for name in ("whole", "cut")]
    assert any(name.startswith("part.scaler.") for name in states[0])
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("wbits,abits", [(2, 2), (2, 32)])
def test_mixed_precision_trains_on_float32_levels(tmp_path, wbits, abits):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, wbits=wbits, abits=abits, width=16),
        train=dataclasses.replace(CONFIG.train, epochs=1, amp="bf16", calibration=0),
    )
    train(tmp_path, "amp", config=config)
    model = rsquant.load(tmp_path / "amp" / runs.LAST)
    conv = model.body.layer1[0].conv1
    with torch.autocast("cpu", torch.bfloat16):
        weight = conv.quantized_weight()
    assert weight.dtype == torch.float32
    assert torch.equal(weight, conv.quantized_weight())


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"crop": "multi"}},
        {"model": {"resolutions": (32,)}},
        {"data": {"workers": 2}},
        {"model": {"wbits": 32, "abits": 32}, "train": {"epochs": 1, "calibration": 0}},
        {"train": {"distillation": "none", "batch": 64}},
        {"train": {"batch": 512}},
        {"train": {"basis_updates": "largest", "nesterov": True}},
    ],
)
def test_other_settings_train_too(tmp_path, change):
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))
    for section, values in change.items():
        changed = dataclasses.replace(getattr(config, section), **values)
        config = dataclasses.replace(config, **{section: changed})
    train(tmp_path, "x", config=config)
    (row,) = read_metrics(tmp_path / "x")
    assert float(row["train_loss"]) > 0


def test_an_individual_network_is_the_switchable_one_at_one_size(tmp_path):
    model = dataclasses.replace(CONFIG.model, resolutions=(48, 96, 32), individual=32)
    config = dataclasses.replace(SHORT, model=model)
    lines = train(tmp_path, "whole", config=config)
    line = "individual network at 32, stem 'imagenet' as the switchable network of 48, 96, 32"
    assert line in lines
    spec = rsquant.load(tmp_path / "whole" / runs.LAST).spec
    assert (spec.resolutions, spec.stem, spec.width) == ((32,), "imagenet", 4)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 3, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    for name, tensor in state(tmp_path / "whole")[0].items():
        assert torch.equal(tensor, state(tmp_path / "cut")[0][name]), name


def test_an_individual_network_may_have_another_size_and_a_stem_that_was_asked_for(tmp_path):
    model = dataclasses.replace(CONFIG.model, resolutions=(96, 32), individual=40, stem="small")
    one = dataclasses.replace(CONFIG.train, epochs=1)
    lines = []
    run, _ = training.start(
        dataclasses.replace(CONFIG, model=model, train=one), Silent(), lines.append, root=tmp_path
    )
    assert run.name == "resnet10_w2a2_at40"
    spec = rsquant.load(run / runs.LAST).spec
    assert (spec.resolutions, spec.stem) == ((40,), "small")
    mobile = dataclasses.replace(
        model, arch="mobilenet_v2_x0_1", wbits=32, abits=32, stem="auto", width=64
    )
    one = dataclasses.replace(one, calibration=0)
    lines = train(tmp_path, "m", config=dataclasses.replace(CONFIG, model=mobile, train=one))
    assert "individual network at 40 as the switchable network of 96, 32" in lines


@pytest.mark.parametrize("momentum,slow", [(None, True), (0.5, False)])
def test_statistics_that_cannot_follow_are_told_and_can_be_hurried(momentum, slow, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=ModelConfig("torchvision:mnasnet0_5", 2, 32, (32,)),
        data=dataclasses.replace(CONFIG.data, train_images=16, val_images=4),
        train=dataclasses.replace(CONFIG.train, epochs=1, norm_momentum=momentum, calibration=0),
    )
    lines = train(tmp_path, "run", config=config)
    told = [line for line in lines if "norm_momentum" in line]
    assert len(told) == slow
    assert not slow or "3,333 steps (momentum 0.0003)" in told[0]
    mean = rsquant.load(tmp_path / "run" / runs.LAST).body.layers[1].running_mean
    assert (mean.abs().max() > 0.01) != slow


def test_several_paths_at_one_resolution_train_and_resume(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, resolutions=(32, 32)),
        data=dataclasses.replace(CONFIG.data, crop="multi"),
        train=dataclasses.replace(CONFIG.train, epochs=2),
    )
    lines = train(tmp_path, "whole", config=config)
    assert any("2 paths at one resolution, each with its own BatchNorms" in line for line in lines)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", 7, config=config)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    for name, tensor in state(tmp_path / "whole")[0].items():
        assert torch.equal(tensor, state(tmp_path / "cut")[0][name]), name
    row = read_metrics(tmp_path / "whole")[-1]
    for path in ("32", "32_path2"):
        assert row[f"val_top1_{path}"] and row[f"train_top1_{path}"] and row[f"alpha_{path}"]
    table = rsquant.load(tmp_path / "whole" / runs.LAST).body.bn1.running_mean
    # Every path saw crops of its own.
    assert table.shape == (2, 4)
    assert not torch.equal(table[0], table[1])
    run = runs.resolve(tmp_path / "whole", "last")
    (figures,) = evaluate_checkpoint(
        run, None, data=None, val_images=None, batch=16, workers=0, device="cpu", progress=Quiet()
    ).rows
    assert (figures["resolution"], figures["batchnorms"]) == (32, "own")
    assert figures["top1"] == pytest.approx(float(row["val_top1_32"]), rel=1e-5)
    training_curves(tmp_path / "whole")


class Quiet(Silent):
    """What an evaluation shows."""

    def advance(self, images, note=""):
        pass

    def echo(self, line):
        pass


def test_broken_photographs_are_skipped_named_once_and_counted(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("val", 104)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count // 2):
                pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    (tmp_path / "train/cat/3.png").write_bytes(b"")
    (tmp_path / "val/dog/5.png").write_bytes(b"not an image")
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, wbits=32, abits=32),
        data=DataConfig(str(tmp_path), workers=0),
        train=dataclasses.replace(CONFIG.train, epochs=2, calibration=0),
    )
    train(tmp_path, "run", config=config)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("skipped unreadable image") == 2
    assert "cat/3.png" in log
    assert "dog/5.png" in log
    assert "2 unreadable images were skipped" in log
    for i in (7, 8):
        (tmp_path / f"train/cat/{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="of 120 images are unreadable"):
        train(tmp_path, "run2", config=config)


def test_bases_are_calibrated_once_before_the_first_step_also_when_stopped_then(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "run", stop_after=1)
    first = dict(state(tmp_path / "run")[0])
    started = rsquant.create(RESNET10, 2, 2, (48, 32), width=4).state_dict()
    name = "body.layer1.0.act1.basis"
    assert not torch.equal(first[f"model.{name}"], started[name])
    training.resume(tmp_path / "run", Silent(), lambda _: None)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("calibration 8 activation bases fitted to 16 images") == 1
    for key, value in state(tmp_path / "run")[0].items():
        assert torch.equal(value, state(whole[0])[0][key]), key


@pytest.mark.parametrize("abits,calibration", [(32, 64), (2, 0)])
def test_nothing_is_calibrated_without_bases_or_when_told(tmp_path, abits, calibration):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, abits=abits),
        train=dataclasses.replace(CONFIG.train, epochs=1, calibration=calibration),
    )
    train(tmp_path, "run", config=config)
    assert "calibration" not in (tmp_path / "run" / "log.txt").read_text()


def test_a_converted_network_trains_resumes_and_says_what_stayed_in_float(tmp_path):
    """MNASNet asks for the version of the state it loads, from the resume state too."""
    data = dataclasses.replace(CONFIG.data, train_images=16, val_images=4)
    config = RunConfig(
        ModelConfig("torchvision:mnasnet0_5", 2, 2, (32,)),
        data,
        dataclasses.replace(CONFIG.train, epochs=1, batch=8, calibration=8),
    )
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "run", stop_after=2, config=config)  # the first is the calibration
    lines = []
    training.resume(tmp_path / "run", Silent(), lines.append)
    assert "continuing in epoch 1 of 1, step 1" in lines[0]
    assert rsquant.load(tmp_path / "run" / runs.LAST).spec.arch == "torchvision:mnasnet0_5"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "51 layers quantized, kept: layers.0 (reads the image), classifier.1 (head)" in log
