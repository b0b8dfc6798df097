"""Images per second of the training loader, beside the plain way in torchvision.

    python bench/loader.py --data .data/imagenette-5k

Loaders, each with --workers processes:

- rsquant: `training_batches`, uint8 at every size; what training moves to the device.
- rsquant, normalised: the same, made float32 by the process that takes the batches.
- torchvision: ImageFolder; an image is decoded by Pillow, and its crop is resized from it at each
  size (`resized_crop`), then flipped, `to_tensor` and `normalize`, as in torchvision's recipes.
- torchvision v2: `decode_image`, and the same crop, resizes and flip of uint8 tensors.

They take turns: in every round each runs one segment of --batches batches, after some that are not
counted: workers are ahead by a few. Ratios are of segments in the same round. Writes
bench/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as classic
from torchvision.transforms.v2 import functional as v2

from rsquant.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Split,
    normalise,
    open_source,
    training_batches,
)
from rsquant.data.transforms import RATIO

RESULT = Path(__file__).parent / "results" / "loader.json"
WARM_UP = 4
AREA = (0.08, 1.0)


class Plain:
    """One crop and one flip of a PIL image, resized from it at each size."""

    def __init__(self, resolutions: tuple[int, ...]) -> None:
        self.resolutions = resolutions

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        box = RandomResizedCrop.get_params(image, list(AREA), list(RATIO))
        flip = random.random() < 0.5
        out = []
        for size in self.resolutions:
            part = classic.resized_crop(image, *box, [size, size])
            if flip:
                part = classic.hflip(part)
            tensor = classic.to_tensor(part)
            out.append(classic.normalize(tensor, list(IMAGENET_MEAN), list(IMAGENET_STD)))
        return out


class PlainV2:
    """The same of uint8 tensors."""

    def __init__(self, resolutions: tuple[int, ...]) -> None:
        self.resolutions = resolutions

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        box = RandomResizedCrop.get_params(image, list(AREA), list(RATIO))
        flip = random.random() < 0.5
        parts = [v2.resized_crop(image, *box, [s, s], antialias=True) for s in self.resolutions]
        return [v2.horizontal_flip(part) for part in parts] if flip else parts


def decoded(path: str) -> torch.Tensor:
    """(3, H, W) uint8, by torchvision."""
    return decode_image(path, mode=ImageReadMode.RGB)


def ours(
    split: Split, resolutions: tuple[int, ...], batch: int, workers: int, normalised: bool
) -> Iterator[int]:
    """Sizes of the training batches of one epoch after the other, as a run consumes them."""
    epoch = 0
    while True:
        for images in training_batches(split, resolutions, batch, epoch, 0, workers):
            if normalised:
                for part in images.images:
                    normalise(part)
            yield len(images.labels)
        epoch += 1


def plain(folder: ImageFolder, batch: int, workers: int) -> Iterator[int]:
    """The same of a torchvision data set."""
    loader = DataLoader(
        folder,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        for _, labels in loader:
            yield len(labels)


def segment(batches: Iterator[int], length: int) -> float:
    """Images per second of one segment, after some batches that are not counted."""
    for _ in range(WARM_UP):
        next(batches)
    start = time.perf_counter()
    count = sum(next(batches) for _ in range(length))
    return count / (time.perf_counter() - start)


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resolutions", default="224,192,160,128,96")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--segments", type=int, default=7)
    parser.add_argument("--batches", type=int, default=12, help="batches per segment")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    torch.set_num_threads(1)
    split = open_source(options.data).train
    sizes = tuple(int(r) for r in options.resolutions.split(","))
    train, batch, workers = Path(options.data) / "train", options.batch, options.workers
    loaders = {
        "rsquant": ours(split, sizes, batch, workers, False),
        "rsquant, normalised": ours(split, sizes, batch, workers, True),
        "torchvision": plain(ImageFolder(train, Plain(sizes)), batch, workers),
        "torchvision v2": plain(ImageFolder(train, PlainV2(sizes), loader=decoded), batch, workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(options.segments):
        for name, batches in loaders.items():
            rates[name].append(segment(batches, options.batches))
    rows = []
    for name, found in rates.items():
        q1, median, q3 = np.percentile(found, (25, 50, 75))
        ratios = np.array(rates["rsquant"]) / np.array(found)
        rows.append(
            {
                "loader": name,
                "images_per_s_median": round(float(median), 1),
                "images_per_s_q1": round(float(q1), 1),
                "images_per_s_q3": round(float(q3), 1),
                "rsquant_faster_median": round(float(np.median(ratios)), 2),
                "rsquant_faster_low": round(float(ratios.min()), 2),
                "rsquant_faster_high": round(float(ratios.max()), 2),
            }
        )
        print(
            f"{name:20} {median:6.0f} images/s ({q1:.0f} to {q3:.0f}); rsquant is "
            f"{np.median(ratios):.2f} times as fast ({ratios.min():.2f} to {ratios.max():.2f})"
        )
    result = {
        "machine": machine(),
        "command": "python " + shlex.join(sys.argv),
        "workers": workers,
        "resolutions": options.resolutions,
        "batch": batch,
        "segments": options.segments,
        "images_per_segment": batch * options.batches,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
