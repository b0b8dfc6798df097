"""The quickstart runs as it is printed, on photographs and weights made here."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

pytestmark = pytest.mark.usefixtures("one_start")

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def photographs(root):
    """Two classes that differ in their colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("cats", "dogs")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 128, (110, 120, 3), np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{index}.jpg")


class SmallResNet(ResNet):
    """Torchvision's ResNet-18 with one block a stage, of a quarter of the channels."""

    def __init__(self):
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.fc = nn.Linear(128, 1000)

    def _make_layer(self, block, planes, *arguments, **more):
        return super()._make_layer(block, planes // 4, *arguments, **more)


def small_resnet18(weights):
    """Nothing is downloaded: a test must not take long."""
    assert weights in (None, "DEFAULT")
    return SmallResNet()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The page's names after all its code ran, and what it printed; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("quickstart")
    photographs(folder / "photos")
    torch.manual_seed(0)
    printed, names = io.StringIO(), {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setattr(torchvision.models, "resnet18", small_resnet18)
        for number, code in enumerate(blocks(), 1):
            exec(compile(code, f"{PAGE.name}, block {number}", "exec"), names)
    return folder, names, printed.getvalue()


def test_it_writes_every_file_it_names(outcome):
    folder, _, _ = outcome
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {f for f in files if not f.startswith("photos")} == {
        "mine.safetensors",
        "mine_96.onnx",
        "all/mine_96.onnx",
        "all/mine_64.onnx",
        "all/mine.weights",
        "mine.rsq",
    }


def test_training_moved_the_network_and_alpha(outcome):
    _, names, printed = outcome
    assert names["model"].spec.classes == ("cats", "dogs")
    assert not torch.equal(names["alpha"], torch.ones(2))
    assert float(names["alpha"].detach().sum()) == pytest.approx(
        2, abs=0.1
    )  # softmax: no common gradient
    losses = re.findall(r"epoch \d: loss (\d+\.\d+), top-1 % \{96: .*, 64: .*\}", printed)
    assert len(losses) == names["EPOCHS"]


def test_the_packed_file_is_the_network(outcome):
    _, names, _ = outcome
    model, images = names["model"], names["images"][64]
    with torch.no_grad():
        same = model(images).argmax(1).numpy() == names["logits"].argmax(1)
    assert names["net"].classes == ("cats", "dogs")
    assert same.mean() >= 0.75  # trained without a grid: packing moves its levels


def test_every_python_block_is_run():
    assert PAGE.read_text().count("```python") == len(blocks()) == 5
