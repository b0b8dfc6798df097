"""Photographs to masks, from packed files, checkpoints and ONNX files, and their pictures."""

import json
from dataclasses import replace
from types import SimpleNamespace

import every_operation
import numpy as np
import pytest
import torch
from PIL import Image
from shallow import RESNET10
from torch.nn import functional

import rsquant
from rsquant.cli import main
from rsquant.data.transforms import normalise, resize
from rsquant.errors import ConfigError
from rsquant.overlay import UNKNOWN, palette
from rsquant.runtime import evaluation_square
from rsquant.runtime.maps import likeliest
from rsquant.serve import Predictor
from rsquant.serve.marked import coloured, save

CLASSES = ("sky", "road", "car")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = every_operation.NETWORKS["pixels"]()
    network.spec = replace(network.spec, classes=CLASSES)
    return network.eval()


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "net.rsq"
    rsquant.pack(model, path)
    return path


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (3, 5, 7), dtype=np.uint8))
    return resize(small, 30, 41).permute(1, 2, 0).contiguous().numpy()


def status(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def expected_mask(logits, height, width):
    large = functional.interpolate(logits, (height, width), mode="bilinear")
    return large.argmax(1)[0].numpy()


@pytest.mark.parametrize("size", [(30, 41), (7, 90), (1, 1)])
def test_a_whole_photograph_is_resized_as_in_evaluation(size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    got = evaluation_square(pixels, 24)
    wanted = resize(torch.from_numpy(pixels).permute(2, 0, 1), 24, 24)
    np.testing.assert_array_equal(got, wanted.numpy())


def test_a_mask_has_the_photograph_s_size_and_the_network_s_classes(packed, photograph):
    predictor = Predictor(packed, threads=1)
    said = predictor(photograph)
    logits = torch.from_numpy(predictor.network(evaluation_square(photograph, 32)[None]))
    np.testing.assert_array_equal(said.mask, expected_mask(logits, 30, 41))
    counts = {name: int((said.mask == i).sum()) for i, name in enumerate(CLASSES)}
    present = sorted((n for n in CLASSES if counts[n]), key=lambda name: -counts[name])
    assert list(said.labels) == present
    assert said.probabilities == pytest.approx([counts[n] / said.mask.size for n in present])
    assert Predictor(packed, threads=1, top=1)(photograph).labels == said.labels[:1]


def test_a_checkpoint_gives_masks_too(photograph, tmp_path):
    torch.manual_seed(0)
    arch = f"refinenet_lw_{RESNET10}"
    model = rsquant.create(arch, 2, 2, (64, 32), 3, width=2, task="segmentation").eval()
    rsquant.save(model, tmp_path / "net.safetensors")
    said = Predictor(tmp_path / "net.safetensors")(photograph, resolution=32)
    x = torch.from_numpy(evaluation_square(photograph, 32)[None])
    with torch.no_grad():
        logits = model(normalise(x, model.spec.mean, model.spec.std))
    np.testing.assert_array_equal(said.mask, expected_mask(logits, 30, 41))
    assert said.resolution == 32


def test_a_budget_counts_making_a_mask_as_part_of_every_size(monkeypatch, photograph):
    """A network of 20 and 10 ms, and a mask of 50: the load of the machine is 1 all the same."""
    now = [0.0]

    class Network:
        resolutions, classes, gives_maps = (32, 16), CLASSES, True

        def __call__(self, images):
            now[0] += 0.020 if images.shape[-1] == 32 else 0.010
            return np.zeros((1, 3, 4, 4), np.float32)

    def mask(logits, size):
        now[0] += 0.050
        return likeliest(logits, size)

    monkeypatch.setattr("rsquant.serve.predictor.likeliest", mask)
    monkeypatch.setattr("rsquant.serve.predictor.measured", lambda *_: {32: 0.020, 16: 0.010})
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("rsquant.serve.predictor.time", clock)
    predictor = Predictor(Network(), budget_ms=65)
    assert [predictor(photograph).resolution for _ in range(3)] == [32, 16, 16]
    choice = predictor(photograph).choice
    assert choice.load == pytest.approx(1) and choice.predicted == pytest.approx(0.060)
    assert choice.fits


def test_a_cascade_is_refused(packed):
    with pytest.raises(ConfigError, match="cascade: is for one prediction per image"):
        Predictor(packed, threads=1, cascade=True)


def test_predict_writes_classes_and_colours(packed, photograph, tmp_path, capsys):
    Image.fromarray(photograph).save(tmp_path / "a.png")
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "a.png"), "--model", str(packed), "--threads", "1"]
    assert status([*arguments, "--save", str(out), "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) >= {"label", "share", "labels", "shares", "saved"}
    with Image.open(out / "a.png") as picture:
        classes = np.array(picture)
    np.testing.assert_array_equal(classes, Predictor(packed, threads=1)(photograph).mask)
    with Image.open(out / "a.jpg") as picture:
        assert picture.height >= 30 and picture.width > 41  # a legend is beside it
    assert status([*arguments, "--save", str(out)]) == 2  # nothing is replaced


def test_a_legend_has_the_colour_of_each_class(packed, photograph):
    said = Predictor(packed, threads=1)(photograph)
    page = np.array(coloured(photograph, said))
    right = page[:, photograph.shape[1] :].reshape(-1, 3).tolist()
    for label in said.labels:
        assert palette()[CLASSES.index(label)].tolist() in right


def test_colours_of_classes_differ():
    colours = palette().astype(int)
    assert len({tuple(colour) for colour in colours}) == 256
    assert (colours[UNKNOWN] == 255).all()
    apart = [abs(a - b).sum() for i, a in enumerate(colours[:20]) for b in colours[:i]]
    assert min(apart) > 60


def test_a_class_beyond_the_palette_is_not_saved(packed, photograph, tmp_path):
    said = Predictor(packed, threads=1)(photograph)
    many = replace(said, mask=np.full_like(said.mask, 299, np.uint16))
    with pytest.raises(ConfigError, match="save: a palette file has classes 0 to 254"):
        save(photograph, many, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
