"""`rsquant eval` of a packed file: the figures of what the runtime gives."""

import json

import every_operation
import map_set
import numpy as np
import pytest
import torch
from PIL import Image
from shallow import RESNET10

import rsquant
from rsquant.cli import main
from rsquant.data.transforms import resize
from rsquant.tasks import by_name
from rsquant.tasks.classification import Accuracy
from rsquant.tasks.segmentation import SEGMENTATION


@pytest.fixture
def maps(tmp_path):
    torch.manual_seed(0)
    rsquant.pack(every_operation.NETWORKS["pixels"]().eval(), tmp_path / "net.rsq")
    return tmp_path / "net.rsq", map_set.write_set(tmp_path / "set", train=2, val=3)


def status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def evaluated(path, data, *more):
    rows = path.with_suffix(".json")
    arguments = ["eval", str(path), "--data", str(data), "--json", str(rows), "--workers", "0"]
    threads = ["--threads", "1"] if path.suffix == ".rsq" else []
    assert status(*arguments, *threads, "--device", "cpu", *more) == 0
    return json.loads(rows.read_text())


def test_a_file_of_maps_is_measured_on_its_masks(maps, tmp_path, default_signals):
    path, data = maps
    found = evaluated(path, data, "--save", str(tmp_path / "masks"))
    rows = {row["resolution"]: row for row in found["rows"]}
    session = rsquant.runtime.load(path, threads=1, tune=False)
    split = by_name("segmentation").open_source(str(data)).val
    for size in (32, 24):
        metric = SEGMENTATION.metric()
        for i in range(3):
            pixels = resize(split.image(i), size, size)[None].numpy()
            metric.add(torch.from_numpy(session(pixels)), split.label(i)[None])
        assert rows[size]["samples"] == 3
        for name, value in metric.figures().items():
            assert rows[size][name] == pytest.approx(value, rel=1e-6), name
    assert len(list((tmp_path / "masks").glob("[!.]*"))) == 3 * 2 * 3


def test_a_classifier_is_measured_too(tmp_path, default_signals):
    torch.manual_seed(0)
    rsquant.pack(rsquant.create(RESNET10, 2, 2, (32,), 12, width=2), tmp_path / "net.rsq")
    found = evaluated(tmp_path / "net.rsq", "shapes", "--images", "8")
    session = rsquant.runtime.load(tmp_path / "net.rsq", threads=1, tune=False)
    source = by_name("classification").open_source("shapes", val_images=8)
    metric = Accuracy()
    for i in range(8):
        photograph = np.ascontiguousarray(source.val.image(i).permute(1, 2, 0).numpy())
        pixels = rsquant.runtime.evaluation_crop(photograph, 32)[None]
        metric.add(torch.from_numpy(session(pixels)), torch.tensor([source.val.label(i)]))
    assert found["rows"][0]["top1"] == pytest.approx(metric.figures()["top1"])


def test_threads_are_of_the_cpu(maps, capsys, monkeypatch):
    monkeypatch.setattr("rsquant.kernels.backends.pick_device", lambda device: "cuda")
    given = ["--data", str(maps[1]), "--device", "cuda", "--threads", "2"]
    assert status("eval", str(maps[0]), *given) == 2
    assert "threads: for the CPU only, but the device is cuda" in capsys.readouterr().err


def test_a_file_without_a_run_needs_a_data_set(maps, capsys):
    assert status("eval", str(maps[0])) == 2
    assert "name it with --data DIR" in " ".join(capsys.readouterr().err.split())


def test_other_classes_are_named(tmp_path, capsys):
    torch.manual_seed(0)
    rsquant.pack(rsquant.create(RESNET10, 2, 2, (32,), 3, width=2), tmp_path / "net.rsq")
    assert status("eval", str(tmp_path / "net.rsq"), "--data", "shapes", "--images", "8") == 2
    assert "has 3 classes" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["net.rsq", "net.safetensors"])
def test_what_figures_do_not_tell_is_told(tmp_path, capsys, default_signals, kind):
    torch.manual_seed(0)
    arch, given = f"refinenet_lw_bn_{RESNET10}", {"task": "segmentation", "bits": ("4/4", "2/2")}
    network = rsquant.create(arch, resolutions=(32,), num_classes=3, width=4, **given).eval()
    path, data = tmp_path / kind, map_set.write_set(tmp_path / "set", train=1, val=1)
    rsquant.pack(network, path) if kind == "net.rsq" else rsquant.save(network, path)
    evaluated(path, data, "--save", str(tmp_path / "masks"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "what is said of each image is that of width 1 and bits 4/4 alone; measure" in shown
    assert "ignored" not in shown
    label = data / "labels" / "frame_1.png"
    Image.fromarray(np.full((36, 48), 2, np.uint8)).save(label)  # number 2 is ignored
    evaluated(path, data, "--bits", "2/2", "--save", str(tmp_path / "others"), "--exist-ok")
    shown = " ".join(capsys.readouterr().out.split())
    assert "all pixels of the labels are ignored, so every figure is 0" in shown
    assert "alone" not in shown
