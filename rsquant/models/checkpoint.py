"""Checkpoints: one safetensors file, whose metadata says how to build the network. No pickle."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from rsquant.errors import CheckpointError, ModelError, RsquantError
from rsquant.models.description import Description, description
from rsquant.models.factory import ARCHITECTURES, build, weight_shapes
from rsquant.models.shared_memory import check_agree, is_expanded, write_once
from rsquant.models.tensor_file import read_tensors, write_tensors
from rsquant.nn.classifier import check_num_classes
from rsquant.nn.finite import first_bad
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import CUSTOM, ModelSpec, SwitchableNetwork
from rsquant.packed.fields import FieldError
from rsquant.packed.strict_json import strict_json
from rsquant.quantizers import ActivationQuantizer, Quantizer
from rsquant.text import brief, one_line
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
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "rsquant": __version__,
        "model": dataclasses.asdict(model.spec),
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
        _check_tensors(path, model.state_dict(), built.state_dict())
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
    tensors, metadata = read_tensors(path, FORMAT, VERSION)
    try:
        described = description(metadata)
    except FieldError as error:
        raise CheckpointError(
            f"{path}: its description of the network is damaged: {error}; copy or train it again"
        ) from error
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


def _built(path: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> SwitchableNetwork:
    """The network a checkpoint describes, once it is clear that its tensors are of that size.

    A width or a number of classes is a few bytes in a file and may be gigabytes in a network.
    """
    try:
        for name, shape in (weight_shapes(spec) or {}).items():
            _check_shape(path, f"body.{name}", tensors, shape)
        return build(spec)
    except CheckpointError:
        raise
    except RsquantError as error:
        raise CheckpointError(f"{path}: describes a network that cannot be: {error}") from error


def _check_spec(path: Path, spec: ModelSpec, own: ModelSpec) -> None:
    """Raise CheckpointError if a checkpoint describes another network than the one given."""
    names = ["task", "wbits", "abits", "resolutions", "num_classes", "grid", "quantizer"]
    names += ["integer"]
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


def layers_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What layers compute and their tensors do not say, by name, as JSON has it."""
    layers: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            layers[name] = module.settings()
        elif isinstance(module, (SwitchableBatchNorm2d, _BatchNorm)):
            layers[name] = {"eps": module.eps}
        elif isinstance(module, _ConvNd):
            padding = module.padding if isinstance(module.padding, str) else list(module.padding)
            layers[name] = {
                "stride": list(module.stride),
                "padding": padding,
                "dilation": list(module.dilation),
                "groups": module.groups,
                "padding_mode": module.padding_mode,
                "pads": _pads(module),
            }
    return layers


def _pads(conv: _ConvNd) -> Any:
    pads = getattr(conv, "pads", None)
    return list(pads) if isinstance(pads, tuple) else pads


def check_layers(
    path: Path, layers: dict[str, dict[str, Any]], model: nn.Module
) -> dict[ActivationQuantizer, bool]:
    """Raise CheckpointError naming a layer that computes something else than the checkpoint's.

    Which inputs are signed was found from random images, and is taken from the checkpoint: that
    is returned.
    """
    own = layers_of(model)
    modules = dict(model.named_modules())
    for name in sorted(own.keys() ^ layers.keys()):
        owner, _, part = name.rpartition(".")
        if part in ("weight_quantizer", "input_quantizer") and owner in modules:
            quantized, other = ("checkpoint", "network given")
            if name in own:
                quantized, other = other, quantized
            what = part.removesuffix("_quantizer")
            raise CheckpointError(
                f"{path}: {owner.removeprefix('body.')} has a quantized {what} in the {quantized} "
                f"and not in the {other}; make the network with the checkpoint's keep and bits"
            )
    for name in sorted(own.keys() ^ layers.keys()):
        which = "does not describe" if name in own else "describes"
        raise CheckpointError(
            f"{path}: {which} the layer {name.removeprefix('body.'):.100}, which the network "
            f"{'has' if name in own else 'lacks'}; make the network as the checkpoint's was"
        )
    signed: dict[ActivationQuantizer, bool] = {}
    for name, entry in layers.items():
        shown = f"{name.removeprefix('body.'):.100}"
        # A setting that an older version did not know is None where the layer is as it was then.
        needed = {key for key, mine in own[name].items() if mine is not None}
        for key in sorted((needed - entry.keys()) | (entry.keys() - own[name].keys())):
            raise CheckpointError(
                f"{path}: its description of the layer {shown} is damaged: '{key:.40}' is "
                f"{'missing' if key in own[name] else 'unknown'}"
            )
        for key, value in entry.items():
            mine = own[name][key]
            quantizer = modules[name]
            if key == "signed" and isinstance(quantizer, ActivationQuantizer):
                if type(value) is not bool:
                    raise CheckpointError(
                        f"{path}: its description of the layer {shown} is damaged: 'signed' must "
                        f"be true or false, got {brief(value)}"
                    )
                signed[quantizer] = value
            # JSON's true is not 1, and 1.0 is not 1.
            elif mine != value or type(mine) is not type(value):
                given = value if isinstance(value, list) and len(value) < 9 else brief(value)
                raise CheckpointError(
                    f"{path}: {shown} has {key} {one_line(given, 100)}, in the network given "
                    f"{mine}; make the network as the checkpoint's was"
                )
    return signed


def versions_of(state: Mapping[str, Any]) -> dict[str, int]:
    """The version of each module's part of a state dict, by the module's name; 1 is left out.

    Modules that changed their state once (torchvision's MNASNet) ask for it when they load.
    """
    metadata: Mapping[str, Mapping[str, Any]] = getattr(state, "_metadata", {})
    versions = {name: entry.get("version") for name, entry in metadata.items()}
    return {name: v for name, v in versions.items() if isinstance(v, int) and v != 1}


def load_into(
    model: nn.Module,
    tensors: dict[str, Tensor],
    path: Path,
    versions: Mapping[str, int] | None = None,
) -> None:
    """Copy tensors into a network. Raises CheckpointError naming the first difference.

    Args:
        path: where the tensors are from, for messages.
        versions: as `versions_of` the state when it was saved; None takes the network's own.
    """
    own = model.state_dict()
    _check_tensors(path, tensors, own)
    check_agree(path, tensors, own)
    state: OrderedDict[str, Tensor] = OrderedDict(tensors)
    metadata = copy.deepcopy(getattr(own, "_metadata", {}))
    if versions is not None:
        if unknown := versions.keys() - metadata.keys():
            raise CheckpointError(
                f"{path}: its versions of modules are damaged: the network has no module "
                f"'{min(unknown):.100}'"
            )
        for name, entry in metadata.items():
            entry["version"] = versions.get(name, 1)
    # Where load_state_dict looks for versions; it has no argument for them.
    state._metadata = metadata  # type: ignore[attr-defined]
    # torch does not copy to these.
    expanded = {name for name, tensor in own.items() if is_expanded(tensor)}
    for name in expanded:
        del state[name]
    try:
        result = model.load_state_dict(state, strict=False)
        if left := sorted({*result.missing_keys, *result.unexpected_keys} - expanded):
            raise KeyError(f"{left[0]} is missing or surplus")
        for name in expanded:
            write_once(own[name], tensors[name])
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: the network does not accept its tensors: {reason:.300}"
        ) from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming the first tensor that the network does not have like that."""
    missing = sorted(own.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - own.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]:.100} that the network lacks"
        raise CheckpointError(
            f"{path}: is of another architecture: {what} "
            f"({len(missing)} missing, {len(surplus)} surplus tensors)"
        )
    for name, tensor in own.items():
        _check_shape(path, name, tensors, tensor.shape)
        if _kind(tensor) != _kind(tensors[name]):
            raise CheckpointError(
                f"{path}: is damaged: {name} holds {tensors[name].dtype}, the network's is "
                f"{tensor.dtype}"
            )


def _check_shape(
    path: Path, name: str, tensors: Mapping[str, Tensor], shape: Sequence[int]
) -> None:
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != tuple(shape):
        found = f"lacks {name}" if tensor is None else f"{name} is {tuple(tensor.shape)}"
        raise CheckpointError(
            f"{path}: is of another architecture: {found}, the network's is {tuple(shape)}"
        )


def _kind(tensor: Tensor) -> str:
    """Numbers of one kind are converted (a half becomes a float), others would be made up."""
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else str(tensor.dtype)
