"""Export a checkpoint: one ONNX file per resolution, each with its parity."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsquant.atomic import check_free
from rsquant.errors import ExportError
from rsquant.export.images import validation_images
from rsquant.export.onnx import check_resolution, export_onnx
from rsquant.models.checkpoint import load
from rsquant.nn.switchable import ModelSpec
from rsquant.runs import Checkpoint

Step = Callable[[str], None]


def export_checkpoint(
    checkpoint: Checkpoint,
    resolutions: Sequence[int],
    *,
    out: Path | None = None,
    count: int = 64,
    data: str | None = None,
    interpolate: bool = False,
    exist_ok: bool = False,
    step: Step = lambda _: None,
    echo: Step = lambda _: None,
) -> list[dict[str, Any]]:
    """Write and check the files; everything a user can get wrong is looked at first.

    Args:
        resolutions: sizes in pixels; empty means all trained ones.
        out: folder; None means export/ beside the checkpoint.
        count, data: how many images parity is measured on, and of which source.
        interpolate, exist_ok: as in `export_onnx`.
        step: called with what is being done before each file.
        echo: called with lines for the user.
    Returns:
        A row per file: arch, wbits, abits, resolution, file, file_bytes, the parity, seconds.
    """
    model = load(checkpoint.path)
    spec = model.spec
    sizes = tuple(dict.fromkeys(resolutions or model.resolutions))
    folder = checkpoint.path.parent / "export" if out is None else out
    files = {size: folder / file_name(spec, size) for size in sizes}
    for size, file in files.items():
        check_resolution(model, size, interpolate)
        check_free(file, exist_ok)
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder}: is a file; --out must name a folder")
    step("images")
    images = validation_images(spec, sizes, count, checkpoint, data)
    echo(f"parity on {images.source}")
    rows = []
    for size, file in files.items():
        step(file.name)
        start = time.perf_counter()
        parity = export_onnx(model, file, size, images.at[size], interpolate, exist_ok)
        rows.append(
            {
                "arch": spec.arch,
                "wbits": spec.wbits,
                "abits": spec.abits,
                "resolution": size,
                "file": str(file),
                "file_bytes": parity.file_bytes,
                "max_abs_error": parity.max_abs_error,
                "max_rel_error": parity.max_rel_error,
                "forced_error": parity.forced_error,
                "near_ties": parity.near_ties,
                "top1_agreement": parity.top1_agreement,
                "images": parity.images,
                "passed": parity.passed,
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
    return rows


def file_name(spec: ModelSpec, resolution: int) -> str:
    """resnet50_w2a2_96.onnx"""
    arch = spec.arch.replace(":", "_").replace("/", "_")
    return f"{arch}_w{spec.wbits}a{spec.abits}_{resolution}.onnx"
