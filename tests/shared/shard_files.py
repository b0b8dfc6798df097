"""WebDataset shards of pictures of noise."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from rsquant.data import open_source

PER_SHARD = 4


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, count: int, label=lambda i: str(i % 3), kind: str = "cls"):
    files = []
    for i in range(first, first + count):
        text = label(i) if kind == "cls" else json.dumps({"label": label(i), "width": 24})
        files += [(f"set/{i:05}.png", picture(i)), (f"set/{i:05}.{kind}", text.encode())]
    return files


def make(folder: Path, train: int = 3, **label) -> Path:
    """`train` shards to train on and one to validate on, of PER_SHARD images each."""
    for s in range(train):
        write(folder / f"train-{s:03}.tar", samples(s * PER_SHARD, PER_SHARD, **label))
    write(folder / "val-000.tar", samples(1000, PER_SHARD, **label))
    return folder


def opened(spec, tmp_path: Path, **rest):
    return open_source(str(spec), root=tmp_path / "cache", **rest)


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])
