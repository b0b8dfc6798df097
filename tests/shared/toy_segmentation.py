"""A second task: a class for each pixel, of drawn images whose colours say which."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import rsquant
from rsquant import tasks
from rsquant.data.split import Source
from rsquant.data.transforms import RATIO, crop_box, resize
from rsquant.errors import DataError
from rsquant.tasks import Figure, Metric, Task

NAME = "toy-segmentation"
SIZES = (24, 16)
CLASSES = ("ground", "red", "blue")
COLOURS = np.array([[40, 200, 40], [220, 30, 30], [30, 30, 220]], np.uint8)
IGNORED = 255


class Patches:
    """Two rectangles on a ground: images 24 high and 32 wide, and their maps of classes."""

    def __init__(self, count, seed, damaged=()):
        self.count, self.seed, self.damaged = count, seed, damaged

    def __len__(self):
        return self.count

    def name(self, i):
        return f"patches/{i}"

    def label(self, i):
        rng = np.random.default_rng([self.seed, i])
        classes = np.zeros((24, 32), np.int64)
        for one in (1, 2):
            top, left = rng.integers(0, 14), rng.integers(0, 20)
            classes[top : top + rng.integers(6, 12), left : left + rng.integers(6, 14)] = one
        classes[10:13, 14:18] = IGNORED
        if i in self.damaged:
            classes[3, 3] = 7
        return torch.from_numpy(classes)

    def image(self, i, min_side=None):
        assert min_side is None, "the map of classes would no longer fit"
        classes = self.label(i).numpy()
        pixels = COLOURS[np.where(classes < len(CLASSES), classes, 0)]
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass
class IoU(Metric):
    """Counts (truth, prediction) pairs of pixels."""

    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(3, 3, dtype=torch.int64))
    loss_sum: float = 0.0
    samples: int = 0

    def add(self, outputs, labels):
        outputs = as_large_as(outputs, labels)
        known = labels != IGNORED
        pairs = labels[known] * 3 + outputs.argmax(1)[known]
        self.counts += torch.bincount(pairs.cpu(), minlength=9).view(3, 3)
        self.loss_sum += float(TASK.loss(outputs, labels)) * len(labels)
        self.samples += len(labels)

    def figures(self):
        right = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - right
        each = 100 * right / union.clamp_min(1)
        return {
            "miou": float(each.mean()),
            "pixels": float(100 * right.sum() / self.counts.sum().clamp_min(1)),
            "loss": self.loss_sum / max(1, self.samples),
            **{f"iou_{name}": float(value) for name, value in zip(CLASSES, each, strict=True)},
        }


class ToySegmentation(Task):
    outputs = "logits (N, classes, H, W)"
    figures = (
        Figure("miou", "mean IoU", "%"),
        Figure("pixels", "pixels", "%", 1),
        Figure("loss", "loss", decimals=4),
    )
    loss_name = "segmentation"
    squares = False

    def open_source(self, spec, seed=0, train_images=None, val_images=None):
        if spec != "patches":
            raise DataError(f"data: '{spec}' has no maps of classes; give patches")
        splits = Patches(train_images or 24, 2 * seed), Patches(val_images or 8, 2 * seed + 1)
        return Source("patches", CLASSES, *splits, place=spec)

    def decoded_side(self, sizes, augmentation):
        return None

    def training_sample(self, image, label, sizes, rng, augmentation):
        top, left, h, w = crop_box(*label.shape, rng, augmentation.area, RATIO)
        image, label = (
            image[:, top : top + h, left : left + w],
            label[top : top + h, left : left + w],
        )
        if augmentation.flip and rng.random() < 0.5:
            image, label = image.flip(2), label.flip(1)
        side = max(sizes)
        return [resize(image, size, size) for size in sizes], nearest(checked(label), side, side)

    def evaluation_sample(self, image, label, sizes):
        height, width = label.shape
        images = [resize(image, size, round(size * width / height)) for size in sizes]
        return images, checked(label)

    def num_classes(self, output):
        fits = isinstance(output, torch.Tensor) and output.dim() == 4
        return output.shape[1] if fits else None

    def loss(self, outputs, labels):
        outputs = as_large_as(outputs, labels)
        return functional.cross_entropy(outputs, labels, ignore_index=IGNORED)

    def together(self, outputs):
        return [as_large_as(one, outputs[0]) for one in outputs]

    def metric(self):
        return IoU()

    def step_figures(self, outputs, labels):
        right = as_large_as(outputs, labels).argmax(1) == labels
        return {"pixels": 100 * float(right.double().mean())}


def as_large_as(outputs, other):
    return functional.interpolate(outputs, size=other.shape[-2:], mode="bilinear")


def nearest(label, height, width):
    return functional.interpolate(label[None, None].float(), size=(height, width))[0, 0].long()


def checked(label):
    wrong = label[(label >= len(CLASSES)) & (label != IGNORED)]
    if len(wrong):
        raise DataError(f"its map has the class {int(wrong[0])}, known are 0 to {len(CLASSES) - 1}")
    return label


TASK = ToySegmentation()


class Net(nn.Module):
    """Logits for each 2 x 2 pixels."""

    def __init__(self, classes=3):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.middle, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        return self.head(torch.relu(self.bn2(self.middle(x))))


def network(bits=2, sizes=SIZES):
    """A fresh one, always the same; its task must be registered."""
    torch.manual_seed(0)
    return rsquant.convert(Net(), bits, bits, sizes, task=NAME)


def registered(monkeypatch):
    """Register the task for a test alone."""
    monkeypatch.setattr(tasks.registry, "_TASKS", dict(tasks.registry._TASKS))
    tasks.register(NAME, TASK)
