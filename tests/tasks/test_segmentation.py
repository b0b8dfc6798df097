"""Segmentation: labels follow their image, figures are those of counting, and a run of it works."""

import json

import map_set
import numpy as np
import pytest
import shallow  # noqa: F401  (ResNet-10)
import torch
from PIL import Image
from torch.nn import functional

from rsquant.cli import main
from rsquant.data.samples import Augmentation
from rsquant.data.split import IGNORED
from rsquant.errors import DataError
from rsquant.made import LIST
from rsquant.tasks import by_name
from rsquant.tasks.segmentation import SEGMENTATION, Segmentation, nearest
from rsquant.train.losses import mred

pytestmark = pytest.mark.usefixtures("one_start")


def random_batch(classes=3, size=(4, 5), labels=(8, 10)):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, classes, *size, generator=generator)
    truth = torch.randint(0, classes, (2, *labels), generator=generator)
    truth[0, :3, :4] = IGNORED
    return outputs, truth.to(torch.uint8)


def test_it_is_a_task_of_the_package():
    assert by_name("segmentation") is SEGMENTATION


def test_figures_are_those_of_counting_pixels():
    outputs, labels = random_batch(classes=4)
    labels[labels == 3] = 0  # a class that occurs in predictions alone
    metric = SEGMENTATION.metric()
    for i in range(2):
        metric.add(outputs[i : i + 1], labels[i : i + 1])
    large = functional.interpolate(outputs, (8, 10), mode="bilinear").argmax(1)
    pairs = [
        (int(t), int(p))
        for t, p in zip(labels.flatten(), large.flatten(), strict=True)
        if t != IGNORED
    ]
    truth, told = ([pair[i] for pair in pairs] for i in (0, 1))
    iou, accuracy = [], []
    for c in range(4):
        both = sum(pair == (c, c) for pair in pairs)
        union = truth.count(c) + told.count(c) - both
        if union:
            iou.append(both / union)
        if truth.count(c):
            accuracy.append(both / truth.count(c))
    figures = metric.figures()
    assert len(iou) == 4 and len(accuracy) == 3
    assert figures["miou"] == pytest.approx(100 * np.mean(iou))
    assert figures["mean_accuracy"] == pytest.approx(100 * np.mean(accuracy))
    right = sum(a == b for a, b in pairs)
    assert figures["pixels"] == pytest.approx(100 * right / len(pairs))
    rows = metric.details(("a", "b", "c", "d"))["by_class"]
    assert [row["samples"] for row in rows] == [truth.count(c) for c in range(4)]
    assert rows[3]["accuracy"] is None and rows[3]["iou"] == 0
    again = SEGMENTATION.metric()
    again.add_sums(metric.sums())
    again.add_sums(metric.sums())
    assert again.figures()["miou"] == pytest.approx(figures["miou"]) and again.samples == 4


def test_the_loss_is_the_mean_over_known_pixels():
    outputs, labels = random_batch()
    large = functional.interpolate(outputs, (8, 10), mode="bilinear")
    each = [
        functional.cross_entropy(large[i : i + 1], labels[i : i + 1].long(), ignore_index=IGNORED)
        for i in range(2)
    ]
    torch.testing.assert_close(SEGMENTATION.loss(outputs, labels), torch.stack(each).mean())
    halves = [SEGMENTATION.loss(outputs[i : i + 1], labels[i : i + 1]) / 2 for i in range(2)]
    torch.testing.assert_close(SEGMENTATION.loss(outputs, labels), sum(halves))
    unknown = torch.full_like(labels, IGNORED)
    assert SEGMENTATION.loss(outputs, unknown) == 0
    twice = Segmentation(torch.full((3,), 2.0)).loss(outputs, labels)
    torch.testing.assert_close(twice, 2 * SEGMENTATION.loss(outputs, labels))


def test_all_sizes_meet_at_the_labels_size():
    outputs, labels = random_batch()
    small = torch.randn(2, 3, 2, 3)
    assert [z.shape[2:] for z in SEGMENTATION.together([outputs, small])] == [(4, 5)] * 2
    alpha = torch.ones(2, requires_grad=True)
    leaves = [outputs.requires_grad_(), small.requires_grad_()]
    result = mred(leaves, labels, alpha, task=SEGMENTATION)
    assert result.ensemble_logits.shape == (2, 3, 8, 10)
    result.total.backward()
    assert all(z.grad.abs().sum() > 0 for z in (*leaves, alpha))
    # A teacher of the same logits has nothing to teach.
    taught = mred(leaves[:1], labels, alpha[:1], task=SEGMENTATION, teacher=leaves[:1])
    assert taught.teacher.abs() < 1e-5


@pytest.mark.parametrize("side", [(5, 7), (10, 14), (3, 2), (13, 4)])
def test_nearest_takes_the_pixel_under_the_centre(side):
    labels = torch.arange(70, dtype=torch.uint8).view(1, 7, 10)
    expected = functional.interpolate(labels[None].float(), side, mode="nearest-exact")[0]
    assert torch.equal(nearest(labels, *side), expected.to(torch.uint8))


def test_labels_are_cut_and_flipped_with_their_image():
    """An image whose levels are its labels: what is resized shows the label nearly everywhere."""
    numbers = torch.from_numpy(map_set.numbers(0, 40, 60))
    image = (numbers * 60).expand(3, -1, -1)
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        augmentation = Augmentation(area=(0.3, 0.9))
        images, labels = SEGMENTATION.training_sample(image, numbers, (16, 32), rng, augmentation)
        assert [x.shape for x in images] == [(3, 16, 16), (3, 32, 32)]
        assert labels.shape == (32, 32)
        shown = (images[1][0].float() / 60).round()
        assert (shown == labels).float().mean() > 0.85
        seen.add(tuple(labels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()))
    assert len(seen) > 1
    images, labels = SEGMENTATION.evaluation_sample(image, numbers, (16, 32))
    assert labels.shape == (40, 60) and images[0].shape == (3, 16, 16)
    with pytest.raises(DataError, match="its labels are 50x40 pixels, and the image 60x40"):
        SEGMENTATION.evaluation_sample(image, numbers[:, :50], (16,))


def test_a_network_is_trained_evaluated_and_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    map_set.write_set(tmp_path / "set")
    given = ["--task", "segmentation", "--arch", "refinenet_lw_bn_resnet10", "--data", "set"]
    given += ["--width", "4", "--resolutions", "48,32", "--epochs", "1", "--batch", "4"]
    given += ["--workers", "0", "--device", "cpu", "--calibration", "4"]
    with pytest.raises(SystemExit) as done:
        main(["train", *given])
    assert not done.value.code, capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["eval", "--workers", "0", "--by-class", "--json", "e.json", "--save", "masks"])
    shown = capsys.readouterr().out
    assert not done.value.code and "mean IoU %" in shown and "IoU % of each class" in shown
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [48, 32] and rows[0]["samples"] == 2
    assert [one["class"] for one in rows[0]["by_class"]] == ["Sky", "Road", "Car"]
    kinds = ("truth", 48, 32)
    names = {f"frame_{i}_{kind}.{e}" for i in (4, 5) for kind in kinds for e in ("png", "jpg")}
    assert {path.name for path in (tmp_path / "masks").iterdir()} == names | {LIST}
    truth, mask = (Image.open(tmp_path / "masks" / f"frame_4_{k}.png") for k in ("truth", 32))
    assert mask.size == (48, 36) and mask.mode == "P"
    expected = np.array([0, 1, IGNORED, 2])[map_set.numbers(4)]
    assert np.array_equal(np.asarray(truth), expected)
    counts = np.array(rows[1]["confusion"])
    assert (np.asarray(mask) < 3).all() and counts.sum() == 2 * 36 * 48 * 3 // 4
    with pytest.raises(SystemExit) as done:
        main(["export", "--resolution", "32", "--form", "codebook", "--images", "2"])
    shown = capsys.readouterr().out
    assert not done.value.code and "parity passed" in shown
    monkeypatch.setattr("rsquant.report.compose.TIMING_SECONDS", 0.0)
    with pytest.raises(SystemExit) as done:
        main(["report", "--out", "out", "--workers", "0", "--device", "cpu"])
    assert not done.value.code, capsys.readouterr()
    page = (tmp_path / "out/report.html").read_text()
    assert "Predictions by size" in page and "IoU % of each class by size" in page
    assert f"{rows[0]['miou']:.2f}" in page
    with pytest.raises(SystemExit) as done:
        main(["eval", "--workers", "0", "--save", "masks"])
    assert done.value.code == 2
    assert "masks: is not empty; --exist-ok writes to it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["eval", "--workers", "0", "--save", "masks", "--exist-ok"])
    assert not done.value.code, capsys.readouterr()
    own = tmp_path / "masks" / "frame_5_32.png"
    own.write_bytes(b"corrected by hand")
    before = {path: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
    with pytest.raises(SystemExit) as done:
        main(["eval", "--workers", "0", "--save", "masks", "--exist-ok"])
    assert done.value.code == 2
    assert "masks/frame_5_32.png: is not as rsquant made it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "masks").iterdir()} == before


@pytest.mark.slow
def test_so_is_an_integer_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    map_set.write_set(tmp_path / "set")

    def told(*given):
        with pytest.raises(SystemExit) as done:
            main(list(given))
        shown = capsys.readouterr()
        assert not done.value.code, shown
        return shown.out

    given = ["--task", "segmentation", "--arch", "refinenet_lw_bn_resnet10", "--data", "set"]
    given += ["--width", "2", "--resolutions", "48,32", "--epochs", "1", "--batch", "4"]
    told("train", *given, "--workers", "0", "--device", "cpu", "--calibration", "4", "--integer")
    told("eval", "--workers", "0", "--json", "e.json")
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    shown = told("export", "--all", "--images", "2", "--out", "files", "--json", "x.json")
    assert "equal to the network's evaluation, in every code and logit" in shown
    files = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(one["form"], one["resolution"]) for one in files] == [("int8", 48), ("int8", 32)]
    for row, file in zip(rows, files, strict=True):
        assert (file["wrong_codes"], file["max_abs_error"]) == (0, 0.0)
        assert file["file_miou"] == file["miou"] == pytest.approx(row["miou"])


def test_a_bad_label_is_told_before_a_run_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = map_set.write_set(tmp_path / "set")
    (folder / "classes.txt").write_text("Sky\nRoad\nCar\n")
    given = ["train", "--task", "segmentation", "--arch", "refinenet_lw_resnet10", "--width", "4"]
    with pytest.raises(SystemExit) as done:
        main([*given, "--data", "set", "--resolutions", "32", "--workers", "0"])
    assert done.value.code == 2
    assert "labels/frame_0.png has the label 3 at row" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
