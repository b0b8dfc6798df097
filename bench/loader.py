"""Images per second of the training loader alone.

    python bench/loader.py --data .data/imagenette-5k

Each figure is one segment of --batches batches, from a running loader (the first batches, while
workers start, are not counted); median and quartiles are over the segments. Writes
bench/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

from rsquant.data import Batch, Split, open_source, training_batches

RESULT = Path(__file__).parent / "results" / "loader.json"
WARM_UP = 4


def endless(
    split: Split, resolutions: tuple[int, ...], batch: int, workers: int
) -> Iterator[Batch]:
    """Training batches of one epoch after the other, as a run consumes them."""
    epoch = 0
    while True:
        yield from training_batches(split, resolutions, batch, epoch, 0, workers)
        epoch += 1


def measure(batches: Iterator[Batch], segments: int, length: int) -> tuple[list[float], int]:
    """Images per second of each segment, and the number of images in all."""
    for _ in range(WARM_UP):
        next(batches)
    rates, images = [], 0
    for _ in range(segments):
        start, count = time.perf_counter(), 0
        for _ in range(length):
            count += len(next(batches).labels)
        rates.append(count / (time.perf_counter() - start))
        images += count
    return rates, images


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
    parser.add_argument("--data", required=True, help="a folder, torchvision:NAME or shapes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resolutions", default="224,192,160,128,96")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--segments", type=int, default=9)
    parser.add_argument("--batches", type=int, default=40, help="batches per segment")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    torch.set_num_threads(1)
    split = open_source(options.data).train
    resolutions = tuple(int(r) for r in options.resolutions.split(","))
    batches = endless(split, resolutions, options.batch, options.workers)
    rates, images = measure(batches, options.segments, options.batches)
    q1, median, q3 = np.percentile(rates, (25, 50, 75))
    row = {
        "workers": options.workers,
        "resolutions": options.resolutions,
        "images_per_s_median": round(float(median), 1),
        "images_per_s_q1": round(float(q1), 1),
        "images_per_s_q3": round(float(q3), 1),
        "images": images,
        "command": "python " + shlex.join(sys.argv),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine(), "rows": [row]}, indent=2) + "\n")
    print(
        f"{median:.0f} images/s ({q1:.0f} to {q3:.0f}), {options.workers} workers, "
        f"{options.resolutions}; {options.out}"
    )


if __name__ == "__main__":
    main()
