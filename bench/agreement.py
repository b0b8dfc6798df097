"""Whether an integer network's PyTorch form, packed file and ONNX files compute the same integers.

    python bench/agreement.py runs/RUN/last.safetensors --data DIR --json agreement.json

Runs the validation images at every size through the network in PyTorch (what `rsquant eval` runs),
the packed file on every instruction set of this machine, on 1 and 3 threads, in full and low
memory, and the int8 ONNX files in onnxruntime. Counts for each the same top-1 predictions and the
very same logits; and, on the first `--codes` images, the codes of every layer (integers: an equal
code is equal bit for bit, so a code that differs would be a rounding tie or a fault, and is
counted). Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsquant import runtime
from rsquant.data.transforms import normalise
from rsquant.errors import RsquantError
from rsquant.evaluate.images import batches, validation_source
from rsquant.export import engine
from rsquant.export.integer import to_integer_onnx
from rsquant.export.verify.integers import trace_integers
from rsquant.kernels import available
from rsquant.machine import write_json
from rsquant.models.checkpoint import load
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packing.agreement import LOGITS, compare_codes
from rsquant.packing.write import lowered_network, pack
from rsquant.runs import Checkpoint
from rsquant.tasks import by_name

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass
class Row:
    """One engine at one size, beside PyTorch; `codes`, `other_codes`: compared, and different."""

    engine: str
    resolution: int
    images: int = 0
    correct: int = 0
    same_top1: int = 0
    same_logits: int = 0
    codes: int = 0
    other_codes: int = 0

    def add(self, logits: NDArray[Any], own: NDArray[Any], labels: NDArray[Any]) -> None:
        top1 = logits.argmax(1)
        self.images += len(labels)
        self.correct += int((top1 == labels).sum())
        self.same_top1 += int((top1 == own.argmax(1)).sum())
        self.same_logits += int((logits == own).all(1).sum())

    @property
    def exact(self) -> bool:
        return self.same_logits == self.images and not self.other_codes


def sessions(path: Path, isas: list[str]) -> dict[str, runtime.Session]:
    """The packed file on every instruction set, by what it runs on."""
    return {
        f"{isa}, {threads} threads, {memory}": runtime.load(path, threads, memory, isa, tune=False)
        for isa in isas
        for threads in (1, 3)
        for memory in ("full", "low")
    }


def onnx_session(network: SwitchableNetwork, size: int) -> Run:
    made = to_integer_onnx(network, size)
    session = engine.session(made.proto.SerializeToString())
    mean, std = network.spec.mean, network.spec.std

    def run(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return engine.run(session, normalise(torch.from_numpy(pixels), mean, std).numpy())[0]

    return run


@torch.inference_mode()
def measure(options: argparse.Namespace) -> list[Row]:
    checkpoint = Checkpoint(options.checkpoint, None)
    network = load(checkpoint.path).one_path_per_size().eval()
    spec, sizes = network.spec, network.resolutions
    if not spec.integer:
        sys.exit(f"{checkpoint.path}: is not an integer network; train one with --integer")
    images = validation_source(checkpoint, options.images, options.data, by_name(spec.task))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.rsq"
        pack(network, path)
        _, lowered = lowered_network(network, path)
        packed = sessions(path, options.isas.split(","))
        files = {size: onnx_session(network, size) for size in sizes}
        names = ["PyTorch", *packed, "onnxruntime int8"]
        rows = {(name, size): Row(name, size) for name in names for size in sizes}
        left = options.codes
        for cut in batches(images.source.val, images, spec, sizes):
            labels = cut.labels.numpy()
            for size, x in zip(sizes, cut.images, strict=True):
                pixels, floats = x.numpy(), normalise(x, spec.mean, spec.std)
                own = network(floats).numpy()
                runs: dict[str, Run] = {**packed, "onnxruntime int8": files[size]}
                rows["PyTorch", size].add(own, own, labels)
                for name, run in runs.items():
                    rows[name, size].add(run(pixels), own, labels)
                few = min(left, len(labels))
                if few:
                    for name, session in packed.items():
                        for one in x[:few].split(1):
                            found = compare_codes(network, session, lowered.values, one.numpy())
                            rows[name, size].codes += found.codes
                            other = {k: n for k, n in found.other.items() if k != LOGITS}
                            rows[name, size].other_codes += sum(other.values())
                    made = to_integer_onnx(network, size)
                    with network.at(size):
                        traced = trace_integers(network, made.proto, made, floats[:few])
                    rows["onnxruntime int8", size].other_codes += traced.wrong
            left -= min(left, len(labels))
            print(f"\r{rows['PyTorch', sizes[0]].images} images", end="", file=sys.stderr)
    print(f" {images.what}", file=sys.stderr)
    return list(rows.values())


def table(rows: list[Row]) -> str:
    """Markdown: top-1 in percent, and the shares that are PyTorch's, a row per engine."""
    sizes = list(dict.fromkeys(row.resolution for row in rows))
    lines = ["| | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in dict.fromkeys(row.engine for row in rows):
        own = [row for row in rows if row.engine == name]
        cells = [
            f"{100 * row.correct / row.images:.2f}; {100 * row.same_top1 / row.images:.2f} %, "
            f"{100 * row.same_logits / row.images:.2f} %, "
            f"{row.other_codes} of {row.codes or 'its'} codes"
            for row in own
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", help="another data set than the run's")
    parser.add_argument("--images", type=int, default=1250)
    parser.add_argument("--codes", type=int, default=2, help="images whose codes are compared")
    usable = ",".join(isa.name for isa in available() if isa.usable)
    parser.add_argument("--isas", default=usable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        rows = measure(options)
    except RsquantError as error:
        sys.exit(f"error: {error}")
    print("top-1 %; the same top-1, the same logits as PyTorch; codes that differ\n")
    print(table(rows))
    if options.json is not None:
        write_json(options.json, [asdict(row) for row in rows])
    sys.exit(0 if all(row.exact for row in rows) else 1)


if __name__ == "__main__":
    main()
