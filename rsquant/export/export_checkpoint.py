"""Export a checkpoint: ONNX files, each with its parity."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rsquant.errors import ExportError
from rsquant.evaluate.images import Images, calibration_images, pictures, validation_images
from rsquant.export.forms import FLOAT, choose_form, needs_calibration
from rsquant.export.onnx import (
    Material,
    Options,
    check_files,
    check_resolution,
    export_settings,
    export_switchable,
)
from rsquant.export.verify.parity import Parity
from rsquant.made import Made
from rsquant.models.checkpoint import load
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.runs import Checkpoint
from rsquant.settings import Variant
from rsquant.tasks import Task, by_name

Step = Callable[[str], None]

_PICTURES = 4
# Whose ranges the int8 form takes.
_CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Outcome:
    """What was written.

    Attributes:
        task: of the network.
        rows: one per resolution, and per width and pair of bits if several were written (width,
            0.5; bits, "4/4"): arch, wbits, abits, integer, form, resolution, file, file_bytes,
            float_bytes (of the same network in float32), the parity, the task's main figure of the
            network and of the file (top1 and file_top1, percent; None where the labels are not the
            network's), weights (the file shared, or None).
        files: all of them, the weight file included.
        bytes, float_bytes: of all files together, and of the same network in float32 files.
        seconds: it took.
    """

    task: Task
    rows: list[dict[str, Any]]
    files: list[Path]
    bytes: int
    float_bytes: int
    seconds: float


def export_checkpoint(
    checkpoint: Checkpoint,
    resolutions: Sequence[int],
    *,
    options: Options = Options(),  # noqa: B008 (frozen)
    single_file: bool = False,
    out: Path | None = None,
    count: int = 64,
    calibrate: int | None = None,
    data: str | None = None,
    plan: Callable[[int], None] = lambda _: None,
    step: Step = lambda _: None,
    echo: Step = lambda _: None,
) -> Outcome:
    """Write and check the files; everything a user can get wrong is looked at first.

    Args:
        resolutions: sizes in pixels; empty means all trained ones, and of a network with several
            widths or bits all of those, but for `options.width` and `options.bits`.
        options: what kind of files.
        single_file: one file for all sizes instead of one each.
        out: folder; None means export/ beside the checkpoint.
        count, data: how many images parity is measured on, and of which source.
        calibrate: how many the int8 form is calibrated on; None: 64.
        plan: called once with the number of steps.
        step: called with what is being done, before each.
        echo: called with lines for the user.
    """
    start = time.perf_counter()
    model = load(checkpoint.path).one_path_per_size()
    spec = model.spec
    form = choose_form(spec, options.form, single_file)
    _check_effects(spec, form, options.compat, calibrate)
    sizes = tuple(dict.fromkeys(resolutions or model.resolutions))
    for size in sizes:
        check_resolution(model, size, options.interpolate)
    folder = checkpoint.path.parent / "export" if out is None else out
    _check_folder(folder)
    chosen = _variants(model, options, every=not resolutions and not single_file)
    files = {
        (one, size): folder
        / file_name(_of_variants(spec, [one]), form, None if single_file else size)
        for one in chosen
        for size in sizes
    }
    weights = None
    if len(files) > 1 and form != FLOAT and not single_file:
        weights = folder / weights_name(_of_variants(spec, chosen), form)
    check_files(set(files.values()), weights, options.exist_ok)
    # One for the images, two for each file; a single file is made once.
    plan(1 + (1 + len(sizes) if single_file else 2 * len(files)))
    step("images")
    images = validation_images(spec, sizes, count, checkpoint, data)
    calibration = Images({}, "")
    if needs_calibration(spec, form):
        calibration = calibration_images(
            spec, sizes, calibrate or _CALIBRATION_IMAGES, checkpoint, data
        )
        echo(f"ranges of activations from {calibration.source}")
    task = by_name(spec.task)
    shown = pictures(_PICTURES, checkpoint, data, task) if options.preprocess else ()
    material = Material(images.at, calibration.at, shown, calibration.kind)
    echo(f"parity on {images.source}")
    if single_file:
        written_file = files[chosen[0], sizes[0]]
        found = export_switchable(model, written_file, options, material, step)
        parities = {(chosen[0], size): parity for size, parity in found.items()}
    else:
        parities = export_settings(model, files, options, material, weights, step)
    rows = [
        {
            **_row(spec, variant, size, form, file, weights),
            **_figures(parities[variant, size], task, images.labels),
        }
        for (variant, size), file in files.items()
    ]
    written = [*dict.fromkeys(files.values()), *([] if weights is None else [weights])]
    if out is None:
        with suppress(OSError):  # listed for a new run in this folder, which removes them
            Made(folder).note({path.name: path for path in written})
    total = sum(path.stat().st_size for path in written)
    floats = sum({row["file"]: row["float_bytes"] for row in rows}.values())
    return Outcome(task, rows, written, total, floats, round(time.perf_counter() - start, 1))


def _check_effects(spec: ModelSpec, form: str, compat: bool, calibrate: int | None) -> None:
    """Raise ExportError for what a form has no use for."""
    if calibrate is not None and not needs_calibration(spec, form):
        what = (
            "an integer network's ranges are trained" if spec.integer else f"form {form} has none"
        )
        raise ExportError(f"calibrate: is for the ranges of form int8, {what}; leave it out")
    if compat and form == FLOAT:
        raise ExportError("compat: is for weights as codes, form float has none; leave it out")


def _check_folder(folder: Path) -> None:
    """Raise ExportError for a file, or what was meant to be one."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ExportError(f"{folder}: is a file; `out` must name a folder")
    if folder.suffix in (".onnx", ".rsq") and not folder.is_dir():
        raise ExportError(
            f"{folder}: looks like a file's name; `out` must name a folder, in which the files are "
            "named automatically"
        )


def _variants(model: SwitchableNetwork, options: Options, every: bool) -> list[Variant]:
    """The widths and bits to write: the one meant, or all that are not told apart by `options`."""
    one = model.variant(options.width, options.bits)
    if not every:
        return [one]
    return [
        other
        for other in model.variants
        if (options.width is None or other.width == one.width)
        and (options.bits is None or other.bits == one.bits)
    ]


def _row(
    spec: ModelSpec, variant: Variant, size: int, form: str, file: Path, weights: Path | None
) -> dict[str, Any]:
    """What a file is, see `Outcome`."""
    wbits, abits = variant.bits or (spec.wbits, spec.abits)
    return {
        "arch": spec.arch,
        "wbits": wbits,
        "abits": abits,
        "integer": spec.integer,
        **spec.columns(variant),
        "form": form,
        "resolution": size,
        "file": str(file),
        "weights": None if weights is None else str(weights),
    }


def _figures(parity: Parity, task: Task, labels: Tensor | None) -> dict[str, Any]:
    names = [field.name for field in fields(parity) if field.name != "outputs"]
    figures: dict[str, Any] = {name: getattr(parity, name) for name in names}
    main = task.main.name
    figures |= {main: None, f"file_{main}": None}
    if labels is not None and parity.outputs is not None:
        for name, outputs in zip((main, f"file_{main}"), parity.outputs, strict=True):
            metric = task.metric()
            metric.add(outputs, labels)
            figures[name] = metric.figures()[main]
    return figures


def _of_variants(spec: ModelSpec, some: Sequence[Variant]) -> ModelSpec:
    """What files of some settings are named after."""
    widths = tuple(dict.fromkeys(one.width for one in some)) if spec.widths else ()
    bits = tuple(dict.fromkeys(one.bits for one in some if one.bits))
    return replace(spec, widths=widths, bits=bits)


def file_name(spec: ModelSpec, form: str, resolution: int | None) -> str:
    """resnet50_w2a2_int8_96.onnx; for a file of all resolutions resnet50_w2a32_codebook_all.onnx"""
    return f"{_stem(spec, form)}_{'all' if resolution is None else resolution}.onnx"


def weights_name(spec: ModelSpec, form: str) -> str:
    """resnet50_w2a2_int8.weights"""
    return f"{_stem(spec, form)}.weights"


def _stem(spec: ModelSpec, form: str) -> str:
    return f"{spec.file_stem}_{form}"
