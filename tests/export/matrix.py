"""What loads where: every form of exported file in engines of several versions; `make matrix`.

    python tests/export/matrix.py [--only TEXT] [--environments DIR] [--json FILE]

Small networks are exported in every form. Each file runs in environments of their own with default
options, and its logits are compared with those of onnxruntime beside this interpreter. A table is
printed: the error, in units of how much logits vary over the images, and the share of images with
the same highest logit. The environments are made the first time and then kept, so that "newest" is
what was newest then; delete DIR to make them anew.

The exit status is 1 if something fails that is promised: onnx's checker and shape inference take
every file, onnxruntime runs every file from 1.24.1 on, and in 1.20.1 those for older engines
(compat) and those with float32 weights; OpenVINO in float32 takes the latter two as well.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from matrix_run import COLUMNS, compare

import rsquant
from rsquant.errors import RsquantError
from rsquant.export.onnx import Material, Options, export_files, export_switchable
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer

SIZES = (64, 48, 32)
IMAGES = 16
# Engines sum in other orders: float32 rounding through 18 layers and more.
LIMIT = 1e-4
# Engine, and what to install.
ENVIRONMENTS = {
    "onnxruntime-1.20.1": ("onnxruntime", "onnxruntime==1.20.1", "numpy<2.4"),
    "onnxruntime-1.24.1": ("onnxruntime", "onnxruntime==1.24.1"),
    "onnxruntime-1.27.0": ("onnxruntime", "onnxruntime==1.27.0"),
    "onnxruntime-newest": ("onnxruntime", "onnxruntime"),
    "openvino-newest": ("openvino", "openvino"),
    "onnx-newest": ("onnx", "onnx"),
}


@dataclass(frozen=True)
class Row:
    """A kind of file.

    Attributes:
        bits: of weights and of activations.
        sizes: of one file each, or of the inputs of a single file.
    """

    form: str
    bits: tuple[int, int]
    compat: bool = False
    single: bool = False
    shared: bool = False
    preprocess: bool = False
    arch: str = "resnet18"
    sizes: tuple[int, ...] = (32,)

    @property
    def name(self) -> str:
        kinds = ("compat", "single", "shared", "preprocess")
        words = [f"{self.form} W{self.bits[0]}A{self.bits[1]}"]
        words += [kind for kind in kinds if getattr(self, kind)]
        return ", ".join(words + [self.arch.split(":")[-1]] * (self.arch != "resnet18"))

    @property
    def exact(self) -> bool:
        """Nothing is rounded to few values."""
        return self.bits[1] == 32 and self.form != "int8"

    @property
    def types(self) -> str:
        """What codes are stored as."""
        plain = self.form == "float" or self.compat
        return "" if plain else "UINT2" if self.bits[0] <= 2 else "UINT4"

    def promised(self, engine: str, version: str, column: str) -> bool:
        if engine == "onnxruntime":
            number = tuple(int(part) for part in version.split(".")[:3])
            return self.compat or self.form == "float" or number >= (1, 24, 1)
        if engine == "openvino":
            # In float32, which is not its default everywhere; its Resize has no antialiasing.
            plain = self.form == "float" or self.compat
            return column == "float32" and plain and not self.preprocess
        return column in ("checker", "shapes")


def rows() -> list[Row]:
    found = []
    for bits in ((2, 32), (2, 2)):
        found += [Row("float", bits), Row("float", bits, single=True, sizes=SIZES)]
        for compat in (False, True):
            found += [Row("codebook", bits, compat), Row("int8", bits, compat)]
            found.append(Row("codebook", bits, compat, single=True, sizes=SIZES))
    for compat in (False, True):
        for form in ("codebook", "int8"):
            found += [Row(form, (k, k), compat) for k in (1, 3, 4)]
            found.append(Row(form, (2, 2), compat, shared=True, sizes=SIZES))
            found.append(Row(form, (2, 2), compat, preprocess=True))
            found.append(Row(form, (2, 2), compat, arch="torchvision:mobilenet_v2", sizes=(64,)))
    found.append(Row("codebook", (2, 2), single=True, preprocess=True, sizes=SIZES))
    return [*found, Row("float", (2, 2), preprocess=True)]


def network(row: Row) -> torch.nn.Module:
    """Untrained, in evaluation mode; BatchNorms and bases differ at every size, layer and channel.

    A fresh basis is 1, 2, 4, ... times a number, which would hide how other levels are computed.
    """
    torch.manual_seed(0)
    width = 64 if row.arch.startswith("torchvision:") else 8
    model = rsquant.create(row.arch, *row.bits, SIZES, 5, width=width).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.5)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, (LQActivationQuantizer, LQWeightQuantizer)):
                module.basis *= torch.empty_like(module.basis).uniform_(0.8, 1.2)
    return model


def pictures(*size: int) -> torch.Tensor:
    """(IMAGES, 3, H, W) float32: coarse patterns of several contrasts and colours, and noise."""
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.randn(IMAGES, 3, 4, 4, generator=generator)
    coarse = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    contrast = torch.linspace(0.3, 2, IMAGES).reshape(-1, 1, 1, 1)
    colour = torch.randn(IMAGES, 3, 1, 1, generator=generator)
    return contrast * coarse + colour + 0.2 * torch.randn(IMAGES, 3, *size, generator=generator)


def export(row: Row, folder: Path) -> list[dict[str, str]]:
    """Write the files of a row; a job of `matrix_run` for each input.

    Raises:
        RsquantError: a file could not be written, or not with the logits of torch.
    """
    model = network(row)
    options = Options(row.form, row.compat, row.preprocess)
    images = {size: pictures(size, size) for size in row.sizes}
    material = Material(images, images)
    if row.single:
        files = dict.fromkeys(row.sizes, folder / "all.onnx")
        export_switchable(model, folder / "all.onnx", options, material)
    else:
        files = {size: folder / f"{size}.onnx" for size in row.sizes}
        export_files(model, files, options, material, folder / "weights" if row.shared else None)
    jobs = []
    for size, file in files.items():
        given = images[size]
        if row.preprocess:
            given = pictures(size, size) if row.single else pictures(70, 90)
            given = (given * 60 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        array = given.contiguous().numpy()
        expected = session.run(["logits"], {session.get_inputs()[0].name: array})[0]
        if row.exact and not row.preprocess:
            with torch.no_grad(), model.at(size):
                error = compare(model(given).numpy(), expected)["largest"]
            if error > LIMIT:
                raise RsquantError(f"{file.name} differs from torch by {error:.0e}")
        job = {"file": str(file), "types": row.types}
        for what, value in (("input", array), ("expected", expected)):
            job[what] = str(folder / f"{size}-{what}.npy")
            np.save(job[what], value)
        jobs.append(job)
    return jobs


def prepared(place: Path, packages: list[str]) -> str:
    """The interpreter of an environment, which is made if it is not there."""
    python, done = place / "bin" / "python", place / ".installed"
    if not done.exists():
        venv.create(place, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return str(python)


def run(python: str, engine: str, jobs: list[dict[str, str]], folder: Path) -> list[dict]:
    """Outcomes of each job by column; a job that ends the process has failed in all of them."""
    found: list[dict] = []
    script = Path(__file__).with_name("matrix_run.py")
    for i, job in enumerate(jobs):
        job["optimised"] = str(folder / f"{i}.onnx")
    while len(found) < len(jobs):
        todo, out = folder / "jobs.json", folder / "out.jsonl"
        todo.write_text(json.dumps(jobs[len(found) :]))
        command = [python, str(script), engine, str(todo), str(out)]
        process = subprocess.run(command, capture_output=True, text=True)
        found += map(json.loads, out.read_text().splitlines() if out.exists() else ())
        if len(found) < len(jobs):
            error = process.stderr.strip()[-300:]
            outcome = {"failure": f"process ended, {process.returncode}", "error": error}
            found.append({name: dict(outcome) for name in COLUMNS[engine]})
    return found


def judged(row: Row, engine: str, outcome: dict, optimised: str) -> str:
    """The words of a cell; sets outcome["failure"] where a file runs but not as it should.

    Without rounding to few values, every logit must agree. With it, a value at a threshold may
    take the other level in another engine, which the layers behind amplify: so half of the images
    must. Sums of bytes are exact, so three quarters must in onnxruntime's int8.
    """
    if outcome["failure"] or "median" not in outcome:
        return f"not: {outcome['failure']}" if outcome["failure"] else "ok"
    bytewise = row.form == "int8" and engine == "onnxruntime"
    error = outcome["largest" if row.exact else "upper" if bytewise else "median"]
    words = f"{error:.0e}, top-1 {100 * outcome['top1']:.0f} %"
    if error > LIMIT:
        outcome["failure"] = words
    elif engine == "onnxruntime":
        outcome["failure"] = unfinished(row, optimised, outcome)
    good = "ok, equal" if outcome["equal"] else f"ok, {words}"
    return f"not: {outcome['failure']}" if outcome["failure"] else good


def unfinished(row: Row, optimised: str, outcome: dict) -> str:
    """What onnxruntime does at every run that it should have done on loading, or ""."""
    graph = onnx.load(optimised, load_external_data=False).graph
    outcome["operators"] = Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in graph.node)
    for tensor in graph.initializer:
        if re.search(r"weight/(codes|rows|indices)", tensor.name):
            return f"decodes {tensor.name} at every run"
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "FusedConv")]
    # The one that reads the image is meant to be in float32.
    if row.form == "int8" and len(convolutions) > 1:
        return f"{len(convolutions) - 1} convolutions in float32"
    return ""


def made(only: str, place: Path, broken: list[str]) -> list[tuple[Row, dict[str, str]]]:
    """All rows exported; those that cannot be are added to `broken`."""
    jobs = []
    for row in rows():
        if only in row.name:
            folder = place / row.name.replace(", ", "-")
            folder.mkdir()
            try:
                jobs += [(row, job) for job in export(row, folder)]
            except RsquantError as error:
                broken.append(f"{row.name}: not exported: {error}")
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--environments", type=Path, default=Path("build/matrix"))
    parser.add_argument("--json", type=Path, help="where the full outcome is written")
    arguments = parser.parse_args()
    start = time.perf_counter()
    table: dict[str, dict[str, str]] = {}
    outcomes, broken = [], []
    with tempfile.TemporaryDirectory() as temporary:
        jobs = made(arguments.only, Path(temporary), broken)
        for name, (engine, *packages) in ENVIRONMENTS.items():
            python = prepared(arguments.environments.absolute() / name, packages)
            code = f"import importlib.metadata as m; print(m.version('{engine}'))"
            version = subprocess.check_output([python, "-c", code], text=True).strip()
            folder = Path(temporary) / name
            folder.mkdir()
            found = run(python, engine, [job for _, job in jobs], folder)
            for (row, job), columns in zip(jobs, found, strict=True):
                for column, outcome in columns.items():
                    words = judged(row, engine, outcome, job["optimised"])
                    title = f"{engine} {version} {column}".strip()
                    promised = row.promised(engine, version, column)
                    if outcome["failure"] and promised:
                        broken.append(f"{row.name} in {title}: {words}")
                    cells = table.setdefault(row.name, {})
                    if title not in cells or outcome["failure"]:
                        cells[title] = words
                    about = {"row": row.name, "input": Path(job["input"]).stem, "column": title}
                    about["file_bytes"] = Path(job["file"]).stat().st_size
                    outcomes.append(about | {"promised": promised} | outcome)
    titles = list(dict.fromkeys(title for cells in table.values() for title in cells))
    print("| file | " + " | ".join(titles) + " |\n" + "|---" * (len(titles) + 1) + "|")
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(cells[title] for title in titles) + " |")
    print(f"\n{len(jobs)} inputs of {len(table)} kinds, {time.perf_counter() - start:.0f} s")
    print("\n".join(broken) or "All that is promised holds.")
    if arguments.json:
        beside = {m.__name__: m.__version__ for m in (np, onnx, onnxruntime, torch)}
        text = json.dumps({"beside": beside, "broken": broken, "outcomes": outcomes}, indent=1)
        arguments.json.write_text(text + "\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
