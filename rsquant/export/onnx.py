"""ONNX files that stock onnxruntime runs: one per resolution, or one for all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor

from rsquant.atomic import check_free, check_suffix
from rsquant.errors import ExportError, RsquantError
from rsquant.export.codes import LayerCodes, layer_codes
from rsquant.export.forms import (
    AUTO,
    check_finite,
    choose_form,
    make,
    make_switchable,
    needs_calibration,
)
from rsquant.export.metadata import describe
from rsquant.export.preprocess import add_preprocessing
from rsquant.export.shared import SharedTensors, check_not_needed
from rsquant.export.verify.parity import Parity, check_parity
from rsquant.export.verify.pictures import check_preprocessing
from rsquant.nn.classifier import check_num_classes
from rsquant.nn.inputs import dtypes_line
from rsquant.nn.sizes import check_smallest
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.settings import Bits, Variant
from rsquant.staging import staging
from rsquant.tasks import DEFAULT

Step = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What kind of file.

    Attributes:
        form: codebook, int8, float, or auto: see `forms`.
        compat: for onnxruntime 1.20.1.
        preprocess: the graph takes uint8 images of any size and crops, resizes and normalises.
        interpolate: allow sizes that were not trained, blending their neighbours' BatchNorms.
        exist_ok: replace existing files.
        bits: of weights and activations, of a network with several settings of bits the one to
            write; None: the costliest.
        width: share of the channels, likewise of several widths.
    """

    form: str = AUTO
    compat: bool = False
    preprocess: bool = False
    interpolate: bool = False
    exist_ok: bool = False
    bits: Bits | None = None
    width: float | None = None


@dataclass(frozen=True)
class Material:
    """Images to calibrate and to check on; what is missing is generated.

    Attributes:
        images, calibration: resolution -> (N, 3, R, R) float32, normalised.
        pictures: (3, H, W) uint8, as they are before preprocessing.
        source: what `calibration` is, for the metadata.
    """

    images: Mapping[int, Tensor] = field(default_factory=dict)
    calibration: Mapping[int, Tensor] = field(default_factory=dict)
    pictures: tuple[Tensor, ...] = ()
    source: str = "no images"


def export_onnx(
    model: SwitchableNetwork,
    path: str | Path,
    resolution: int = 96,
    images: Tensor | None = None,
    interpolate: bool = False,
    exist_ok: bool = False,
    *,
    form: str = AUTO,
    compat: bool = False,
    preprocess: bool = False,
    calibration: Tensor | None = None,
    bits: Bits | None = None,
    width: float | None = None,
) -> Parity:
    """Write one resolution's ONNX file and compare it with the network in onnxruntime.

    Input "images": (N, 3, R, R) float32, normalised, any N; with `preprocess` "pixels":
    (N, H, W, 3) uint8 of any size. Output "logits": (N, classes). BatchNorms are folded where a
    convolution precedes them. The metadata says what the network is and how to normalise.

    Args:
        path: written whole, after its parity has been measured, or not at all.
        resolution: side of the images in pixels.
        images: (N, 3, R, R) float32, normalised, to measure parity on; None generates 8.
        interpolate: allow a size that was not trained, blending its neighbours' BatchNorms.
        exist_ok: replace an existing file.
        form: "codebook", "int8", "float", or "auto": int8 where weights and activations are
            low-bit and there are images, codebook where weights are, else float.
        compat: for onnxruntime 1.20.1; other files with codes need 1.24.1.
        preprocess: crop, resize and normalise in the graph, as `rsquant eval` does.
        calibration: (N, 3, R, R) float32, normalised, whose ranges the int8 form uses; None takes
            `images`, and the int8 form needs one of them. Integer networks need none.
        bits: of a network with several settings of bits the one to write; None: the costliest.
        width: of a network with several widths the one to write; None: all channels.
    Raises:
        ExportError: images of whole numbers, untrained size, existing or unwritable file, a form
            that the network cannot have, a network that cannot be exported, or a failed parity.
        ConfigError: an unknown form.
    """
    path = Path(path)
    images, calibration = _floats(images), _floats(calibration)
    material = Material()
    if form == AUTO and images is None and calibration is None and not model.spec.integer:
        # Ranges of noise would be nobody's: the exact form then.
        form = choose_form(model.spec, form, single_file=True)
    if images is not None:
        material = Material({resolution: images}, {resolution: images}, (), "the parity's images")
    if calibration is not None:
        material = replace(material, calibration={resolution: calibration}, source="given images")
    options = Options(form, compat, preprocess, interpolate, exist_ok, bits, width)
    return export_files(model, {resolution: path}, options, material)[resolution]


def _floats(images: Tensor | None) -> Tensor | None:
    """Images as files take them. Raises ExportError for pixels that nobody normalised."""
    if images is None or images.is_floating_point():
        return None if images is None else images.float()
    raise ExportError(dtypes_line(images.dtype, torch.float32))


def export_files(
    model: SwitchableNetwork,
    files: Mapping[int, Path],
    options: Options = Options(),
    material: Material = Material(),
    weights: Path | None = None,
    step: Step = lambda _: None,
) -> dict[int, Parity]:
    """Write files for several resolutions, all or none, and compare each with the network.

    Args:
        files: resolution -> file; all in one folder.
        weights: file for what they have in common, in the same folder; None: each has its own.
        step: called with what is being done, twice for each file.
    Raises:
        As `export_onnx`.
    """
    variant = model.variant(options.width, options.bits)
    named = {(variant, size): path for size, path in files.items()}
    found = export_settings(model, named, options, material, weights, step)
    return {size: parity for (_, size), parity in found.items()}


def export_settings(
    model: SwitchableNetwork,
    files: Mapping[tuple[Variant, int], Path],
    options: Options = Options(),
    material: Material = Material(),
    weights: Path | None = None,
    step: Step = lambda _: None,
) -> dict[tuple[Variant, int], Parity]:
    """`export_files` for several settings: widths and bits, and resolution -> file.

    Over one weight file, settings of fewer bits and channels read the codes of the costliest of
    these.
    """
    form = choose_form(model.spec, options.form)
    check_finite(model)
    check_num_classes(model)
    model = model.one_path_per_size().single_precision()
    for _, size in files:
        check_resolution(model, size, options.interpolate)
    check_files(files.values(), weights, options.exist_ok)
    variants = tuple(dict.fromkeys(variant for variant, _ in files))
    whole = None
    if len(variants) > 1 and weights is not None:
        whole = layer_codes(at_variant(model, _covering(variants)))
    shared = None if weights is None else SharedTensors(weights.name)
    parities = {}
    with _staged(next(iter(files.values())).parent) as folder:
        # One after the other: the graphs of many settings would fill the memory.
        for variant in variants:
            own = at_variant(model, variant)
            for size, path in ((key[1], path) for key, path in files.items() if key[0] == variant):
                one = _File(own, size, path, folder / path.name)
                parities[variant, size] = _export(one, form, options, material, whole, shared, step)
        if shared is not None:
            _share(shared, folder, [path.name for path in files.values()])
        # Preprocessing makes a file longer, shared tensors shorter.
        return {
            key: replace(parities[key], file_bytes=(folder / path.name).stat().st_size)
            for key, path in files.items()
        }


@dataclass(frozen=True)
class _File:
    """A file of one size, and where it is until all are right."""

    model: SwitchableNetwork
    size: int
    path: Path
    written: Path


def _export(
    file: _File,
    form: str,
    options: Options,
    material: Material,
    whole: list[LayerCodes] | None,
    shared: SharedTensors | None,
    step: Step,
) -> Parity:
    """Make and check one file, with all of its tensors."""
    model, size, path, written = file.model, file.size, file.path, file.written
    step(f"making {path.name}")
    made = make(model, size, form, options.compat, material.calibration.get(size), whole)
    more = {"calibration": material.source} if needs_calibration(model.spec, form) else {}
    describe(made.proto, model, form, size, options.preprocess, **more)
    _write(made.proto, written)
    step(f"checking {path.name}")
    parity = check_parity(model, written, size, material.images.get(size), made)
    _passed(parity, path, size)
    if options.preprocess:
        _preprocess(made.proto, written, path, model, size, material)
    if shared is not None:
        shared.add(made.proto)
    return parity


def _covering(variants: Sequence[Variant]) -> Variant:
    """The least setting of which the codes of all these are parts."""
    pairs = [variant.bits for variant in variants if variant.bits is not None]
    return Variant(max(one.width for one in variants), max(pairs, default=None))


def _share(shared: SharedTensors, folder: Path, names: Sequence[str]) -> None:
    """Write what graphs that were checked have in common, and the graphs without it.

    Raises:
        ExportError: onnx reads another graph than the one that was checked.
    """
    (folder / shared.name).write_bytes(shared.content)
    for name in names:
        proto = onnx.load(str(folder / name))
        checked = _tensors(proto)
        shared.move(proto)
        _write(proto, folder / name)
        if _tensors(onnx.load(str(folder / name))) != checked:
            raise ExportError(f"{name}: is not what was checked when read back")


def _tensors(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Hash of each tensor's type, shape and content, by name."""
    found = {}
    for tensor in proto.graph.initializer:
        what = f"{tensor.data_type} {tuple(tensor.dims)} ".encode()
        found[tensor.name] = hashlib.sha256(what + tensor.raw_data).digest()
    return found


def export_switchable(
    model: SwitchableNetwork,
    path: Path,
    options: Options = Options(),
    material: Material = Material(),
    step: Step = lambda _: None,
) -> dict[int, Parity]:
    """Write one file that takes images of any size, and compare it at every trained one.

    Input "images": (N, 3, H, W) float32, normalised; with `preprocess` "pixels": (N, H, W, 3)
    uint8, which are normalised but keep their size.

    Returns:
        Parity at each resolution.
    Raises:
        As `export_onnx`.
    """
    model = at_variant(model, model.variant(options.width, options.bits))
    form = choose_form(model.spec, options.form, single_file=True)
    check_finite(model)
    check_num_classes(model)
    model = model.one_path_per_size().single_precision()
    check_files([path], None, options.exist_ok)
    parities = {}
    with _staged(path.parent) as folder:
        step(f"making {path.name}")
        made = make_switchable(model, form, options.compat)
        describe(made.proto, model, form, None, options.preprocess)
        _write(made.proto, folder / path.name)
        for size in material.images or model.resolutions:
            step(f"checking {path.name} at {size}")
            images = material.images.get(size)
            parities[size] = _passed(
                check_parity(model, folder / path.name, size, images, made), path, size
            )
        if options.preprocess:
            _preprocess(made.proto, folder / path.name, path, model, None, material)
        total = (folder / path.name).stat().st_size
    return {size: replace(parity, file_bytes=total) for size, parity in parities.items()}


def check_files(files: Iterable[Path], weights: Path | None, exist_ok: bool) -> None:
    """Raise ExportError if a file must not be replaced, or cannot be written.

    Args:
        weights: what `files` will have in common, None for nothing.
    """
    files = list(files)
    with _as_export_error():
        for path in files:
            check_suffix(path, ".onnx")
        for path in [*files, *([] if weights is None else [weights])]:
            check_free(path, exist_ok)
    if weights is not None:
        check_not_needed(weights, files)
    # A folder that cannot be written is better known before the work for it.
    with _staged(files[0].parent):
        pass


def check_resolution(model: SwitchableNetwork, resolution: int, interpolate: bool) -> None:
    """Raise ExportError for a size that was not trained, unless `interpolate`.

    With it, ModelError for a size below the network's stride.
    """
    if resolution in model.resolutions:
        return
    trained = ", ".join(map(str, model.resolutions))
    if not interpolate:
        raise ExportError(
            f"resolution {resolution} was not trained (trained: {trained}); "
            "`interpolate=True` exports it with BatchNorms between its neighbours'"
        )
    check_smallest((resolution,), model.stride, model.spec.arch)


def _preprocess(
    proto: onnx.ModelProto,
    written: Path,
    path: Path,
    model: SwitchableNetwork,
    size: int | None,
    material: Material,
) -> None:
    """Put the preprocessing before a graph that has been written and checked, and check it."""
    spec = model.spec
    whole = spec.task != DEFAULT  # each of its pixels is told of
    add_preprocessing(proto, size, spec.mean, spec.std, whole)
    _write(proto, written)
    failure = check_preprocessing(written, size, spec.mean, spec.std, material.pictures, whole)
    if failure:
        raise ExportError(f"{path}: the preprocessing failed, nothing was kept: {failure}")


def _write(proto: onnx.ModelProto, path: Path) -> None:
    if proto.ByteSize() >= 2**31:  # protobuf's limit
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    path.write_bytes(proto.SerializeToString())


def _passed(parity: Parity, path: Path, size: int) -> Parity:
    if not parity.passed:
        raise ExportError(f"{path}: parity failed at {size}, nothing was kept: {parity.failure}")
    return parity


@contextmanager
def _as_export_error() -> Iterator[None]:
    """An existing file, a full disk, a folder that is not writable: errors of the export."""
    try:
        yield
    except ExportError:
        raise
    except RsquantError as error:
        raise ExportError(str(error)) from error


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    with _as_export_error(), staging(folder) as temporary:
        yield temporary
