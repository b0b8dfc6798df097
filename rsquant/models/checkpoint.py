"""Checkpoints: one safetensors file, whose metadata says how to build the network. No pickle."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rsquant.errors import CheckpointError, ModelError, RsquantError
from rsquant.models.description import Description, description
from rsquant.models.factory import ARCHITECTURES, build, weight_shapes
from rsquant.models.layer_settings import check_layers, layers_of
from rsquant.models.state_dict import check_shape, check_tensors, load_into, versions_of
from rsquant.models.tensor_file import read_tensors, write_tensors
from rsquant.nn.classifier import check_num_classes
from rsquant.nn.finite import first_bad
from rsquant.nn.switchable import CUSTOM, ModelSpec, SwitchableNetwork
from rsquant.packed.fields import FieldError
from rsquant.packed.strict_json import strict_json
from rsquant.version import __version__

FORMAT = "rsquant-checkpoint"
# 2: the description of the network names its block.
VERSION = 2


def save(model: SwitchableNetwork, path: str | Path) -> None:
    """Write a network's weights, bases, BatchNorms and ModelSpec.

    Raises:
        ModelError: a weight, basis or statistic is not finite, or `load` would refuse the file: the
            network is not what its ModelSpec says, a replaced classifier for one.
        RsquantError: the file cannot be written; an older file of that name is kept.
    """
    tensors = model.state_dict()
    if bad := first_bad(tensors.items()):
        raise ModelError(
            f"{path}: not written, {bad}; save a network from before training diverged"
        )
    described_model = dataclasses.asdict(model.spec)
    for name in ("bits", "widths"):  # as files of networks with one have always been
        if not described_model[name]:
            del described_model[name]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "rsquant": __version__,
        "model": described_model,
    }
    metadata |= {"versions": versions_of(tensors), "layers": layers_of(model)}
    try:
        described = description(strict_json(json.dumps(metadata)))
        _check_as_built(model, described)
        check_num_classes(model)
    except (FieldError, ValueError, RsquantError) as error:
        raise ModelError(f"{path}: not written, load would refuse it: {error}") from error
    write_tensors(Path(path), tensors, metadata)


def _check_as_built(model: SwitchableNetwork, described: Description) -> None:
    """Raise ModelError if `load` would build another network from a checkpoint's description."""
    if described.spec.arch == CUSTOM:
        return
    path = Path(described.spec.arch)
    built = _as_built(dataclasses.replace(described.spec, classes=()))
    try:
        check_layers(path, described.layers or {}, built)
        check_tensors(path, model.state_dict(), built.state_dict())
    except CheckpointError as error:
        raise ModelError(
            f"{error}; change a network's layers before rsquant.convert, and replace its "
            "classifier with model.reset_classifier"
        ) from error


@functools.lru_cache(maxsize=8)
def _as_built(spec: ModelSpec) -> SwitchableNetwork:
    """The network a description builds, without its values."""
    with torch.random.fork_rng(devices=[]):
        return build(spec).to("meta")


def load(
    path: str | Path, into: nn.Module | None = None, *, body: nn.Module | None = None
) -> SwitchableNetwork:
    """Read a network back, in evaluation mode.

    Args:
        path: a file written by `save`.
        into: the network to load into and return, on its device. A checkpoint of a network made by
            `rsquant.convert` needs it, since its layers are not rsquant's to build: the same
            network, converted alike. None builds the network, on the CPU.
        body: the name of `into` in rsquant 0.1.
    Raises:
        CheckpointError: missing, truncated, of another format, or of a network that computes
            something else, naming what differs; `into` is as it was then.
    """
    path = Path(path)
    into = body if into is None else into
    tensors, described = read(path)
    spec = described.spec
    if into is not None:
        if not isinstance(into, SwitchableNetwork):
            raise CheckpointError(
                "load: into must be the result of rsquant.convert or rsquant.create, got "
                f"{type(into).__name__}"
            )
        model = into
        _check_spec(path, spec, model.spec)
    elif spec.arch == CUSTOM:
        raise CheckpointError(
            f"{path}: holds a converted network, whose layers are not in the file; in Python build "
            "it again with rsquant.convert and give it, load(path, into=model), then evaluate, "
            "export or pack that (docs/quickstart.md)"
        )
    else:
        model = _built(path, spec, tensors)
    signed = {}
    if described.layers is not None:  # files of rsquant 0.1 do not say
        signed = check_layers(path, described.layers, model)
    load_into(model, tensors, path, described.versions)
    for quantizer, value in signed.items():
        quantizer.signed = value
    model.spec = spec
    return model.eval()


def read(path: Path) -> tuple[dict[str, Tensor], Description]:
    """The tensors of a checkpoint and its description, without a network.

    Raises:
        CheckpointError: missing, truncated, or of another format.
    """
    tensors, metadata = read_tensors(path, FORMAT, VERSION)
    try:
        return tensors, description(metadata)
    except FieldError as error:
        raise CheckpointError(
            f"{path}: its description of the network is damaged: {error}; copy or train it again"
        ) from error


def _built(path: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> SwitchableNetwork:
    """The network a checkpoint describes, once it is clear that its tensors are of that size.

    A width or a number of classes is a few bytes in a file and may be gigabytes in a network.
    """
    try:
        for name, shape in (weight_shapes(spec) or {}).items():
            check_shape(path, f"body.{name}", tensors, shape)
        return build(spec)
    except CheckpointError:
        raise
    except RsquantError as error:
        raise CheckpointError(f"{path}: describes an impossible network: {error}") from error


def _check_spec(path: Path, spec: ModelSpec, own: ModelSpec) -> None:
    """Raise CheckpointError if a checkpoint describes another network than the one given."""
    names = ["task", "wbits", "abits", "resolutions", "num_classes", "grid", "quantizer"]
    names += ["integer", "weight_norm", "bits"]
    if CUSTOM not in (spec.arch, own.arch):
        names += ["arch"]
    if spec.arch in ARCHITECTURES:
        names += ["width", "stem", "block"]
    plain = {field.name: field.default for field in dataclasses.fields(ModelSpec)}
    # The checkpoint's are used, so they may differ from those nobody has chosen.
    names += [name for name in ("mean", "std") if getattr(own, name) != plain[name]]
    for name in names:
        if getattr(own, name) != getattr(spec, name):
            what = "make it with the checkpoint's"
            if name == "num_classes":
                what = f"call its reset_classifier({spec.num_classes}) first"
            raise CheckpointError(
                f"{path}: has {name} {getattr(spec, name)}, the network given has "
                f"{getattr(own, name)}; {what}"
            )
