"""Sizes of packed and exported files of ResNets at five sizes, and how far exports are off.

    python bench/sizes.py

The networks are fresh ones whose BatchNorms differ at every size as after training
(`rsquant.bench.subject.like_trained`): equal ones would be stored once. Writes
bench/results/sizes.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import rsquant
from rsquant.bench.subject import like_trained
from rsquant.export.export_checkpoint import export_checkpoint
from rsquant.export.onnx import Options
from rsquant.machine import describe
from rsquant.runs import Checkpoint

RESULT = Path(__file__).parent / "results" / "sizes.json"


def rows_of(arch: str, abits: int, images: int, folder: Path) -> list[dict[str, Any]]:
    """One row per kind of file of a network with 2-bit weights."""
    torch.manual_seed(0)
    model = rsquant.create(arch, 2, abits)
    like_trained(model)
    checkpoint = folder / "network.safetensors"
    rsquant.save(model, checkpoint)
    network = {"arch": arch, "wbits": 2, "abits": abits, "resolutions": list(model.resolutions)}
    rows: list[dict[str, Any]] = []
    if abits < 32:
        path = folder / "network.rsq"
        rsquant.pack(model, path)
        rows.append({**network, "file": "packed", "bytes": path.stat().st_size})
    for form in ("codebook", "int8"):
        made = export_checkpoint(
            Checkpoint(checkpoint, None),
            (),
            options=Options(form),
            out=folder / form,
            count=images,
            calibrate=images if form == "int8" else None,
        )
        rows.append(
            {
                **network,
                "file": form,
                "bytes": made.bytes,
                "float32_bytes": made.float_bytes,
                "largest_error": max(row["max_rel_error"] for row in made.rows),
                "top1_agreement": min(row["top1_agreement"] for row in made.rows),
                "images": images,
                "seconds": made.seconds,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", default="resnet18,resnet50")
    parser.add_argument("--images", type=int, default=16, help="to measure the error on")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for arch in options.archs.split(","):
        for abits in (32, 2):
            with tempfile.TemporaryDirectory() as folder:
                for row in rows_of(arch, abits, options.images, Path(folder)):
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    result = {"machine": describe(), "command": "python " + shlex.join(sys.argv), "rows": rows}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
