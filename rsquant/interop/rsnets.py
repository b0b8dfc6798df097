"""Files of the published PyTorch program of RS-Nets, as networks of ours.

A file is torch's: a dict whose `state_dict` holds the network, with float weights, BatchNorms
bn_0 ... of every size in the order in which the sizes were given to the program, and alpha. The
sizes themselves are not in it. The program gives its networks images of 0 to 1 that no mean is
subtracted from: its loaders end with torchvision's ToTensor.

Source: RS-Nets (arXiv 2007.09558); github.com/yikaiw/RS-Nets, non-quantization.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rsquant.atomic import check_free
from rsquant.errors import CheckpointError, ConfigError
from rsquant.interop.rsnets_names import ALPHA, Layer, architectures, layers, plain_name
from rsquant.models.checkpoint import save
from rsquant.models.factory import create
from rsquant.models.resnet import LAYERS
from rsquant.models.weights_file import read_weights
from rsquant.nn.finite import first_bad
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.precision import FLOAT
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.settings import of_sizes

# As published, in the order of their BatchNorms.
SIZES = (224, 192, 160, 128, 96)
# By name: mean and deviation of the images that a network was trained on, of values 0 to 1.
PIXELS = {
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_KINDS = {
    "conv": (nn.Conv2d,),
    "norm": (SwitchableBatchNorm2d,),
    "linear": (nn.Linear,),
}
# Of one size: its values, by the last part of their name.
_Tensors = dict[tuple[str, int | None], Tensor]


@dataclass(frozen=True)
class Imported:
    """A network from a file of theirs.

    Attributes:
        network: float32, in evaluation mode; its logits are those of their network.
        ensemble: weight of each size's logits in the ensemble that taught it, largest size first;
            empty where the file has none.
    """

    network: SwitchableNetwork
    ensemble: tuple[float, ...]


def import_rsnets(
    path: str | Path,
    arch: str,
    out: str | Path,
    resolutions: Sequence[int] = SIZES,
    pixels: str = "plain",
    exist_ok: bool = False,
) -> Imported:
    """Read a file of theirs and write it as a checkpoint of ours.

    Args:
        out: the checkpoint, .safetensors; written whole or not at all.
        exist_ok: replace an existing one.
    Raises:
        As `read_rsnets`; RsquantError: the file exists or cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"out: must be named *.safetensors, got '{out}'")
    check_free(out, exist_ok)
    imported = read_rsnets(path, arch, resolutions, pixels)
    save(imported.network, out)
    return imported


def read_rsnets(
    path: str | Path, arch: str, resolutions: Sequence[int] = SIZES, pixels: str = "plain"
) -> Imported:
    """The network in a file of theirs.

    Args:
        path: of torch.save or safetensors, read without running code; names with or without the
            wrappers' "module.".
        arch: resnet18, resnet34, resnet50, resnet101 or mobilenet_v2.
        resolutions: sizes in pixels in the order of its BatchNorms bn_0, bn_1, ...: as they were
            given to the program that trained it.
        pixels: what its images are: "plain", values of 0 to 1 as in the published program, or
            "imagenet", normalised by ImageNet's mean and deviation.
    Raises:
        CheckpointError: missing, damaged, not finite, of another architecture or number of sizes.
        ConfigError, ModelError: an unknown architecture or kind of pixels; sizes that are too small
            or that occur twice.
    """
    path = Path(path)
    for what, value, known in (("arch", arch, architectures()), ("pixels", pixels, tuple(PIXELS))):
        if value not in known:
            raise ConfigError(f"{what}: must be one of {', '.join(known)}, got '{value}'")
    settings = of_sizes(resolutions)
    tensors = _plain(path)
    _check_layers(path, arch, tensors)
    _check_sizes(path, tensors, resolutions)
    if bad := first_bad((name, tensor) for (name, _), tensor in tensors.items()):
        raise CheckpointError(f"{path}: {bad}; copy it again, or take another")
    theirs = layers(arch)
    head = tensors[theirs[-1].name + ".weight", None]
    stem, block = ("imagenet", "post") if arch in LAYERS else ("auto", "auto")
    network = create(arch, FLOAT, FLOAT, tuple(resolutions), len(head), stem=stem, block=block)
    mean, std = PIXELS[pixels]
    network.spec = dataclasses.replace(network.spec, mean=mean, std=std)
    # Row of ours -> number of theirs: ours start with the largest size.
    order = sorted(range(len(settings)), key=lambda i: -resolutions[i])
    pairs = list(_values(path, arch, tensors, network, order))
    with torch.no_grad():
        for own, tensor in pairs:
            own.copy_(tensor)
    alpha = tensors.get((ALPHA, None))
    weights = [] if alpha is None else alpha.double().softmax(0).tolist()
    return Imported(network.eval(), tuple(weights[i] for i in order) if weights else ())


def _plain(path: Path) -> _Tensors:
    """The tensors of a file by their names without wrappers and the number of their size."""
    found: _Tensors = {}
    for name, tensor in read_weights(path).items():
        key = plain_name(name)
        if key[0].endswith("num_batches_tracked"):
            continue
        if key in found:
            raise CheckpointError(f"{path}: has {key[0]} twice, as {name} and otherwise")
        found[key] = tensor
    return found


def _wanted(arch: str) -> dict[str, bool]:
    """Names of all tensors of a network of theirs; whether there is one of every size."""
    return {
        f"{layer.name}.{leaf}": layer.kind == "norm"
        for layer in layers(arch)
        for leaf in layer.tensors
    }


def _check_layers(path: Path, arch: str, tensors: _Tensors) -> None:
    """Raise CheckpointError unless a file has the layers of an architecture, and no others."""
    there = {(name, size is not None) for name, size in tensors if name != ALPHA}
    wanted = set(_wanted(arch).items())
    if there == wanted:
        return
    if not any(of_size for _, of_size in there):
        raise CheckpointError(
            f"{path}: is no file of RS-Nets: it has no BatchNorms bn_0, bn_1, .. of several sizes; "
            "a training starts from other files with `init`"
        )
    for other in architectures():
        if there == set(_wanted(other).items()):
            raise CheckpointError(f"{path}: is of {other}, not of {arch}; choose `arch='{other}'`")
    absent, extra = (
        sorted(name for name, _ in names) for names in (wanted - there, there - wanted)
    )
    parts = [f"lacks {absent[0]}"] if absent else []
    parts += [f"has {extra[0]} besides"] if extra else []
    raise CheckpointError(
        f"{path}: is not of {arch}: it {' and '.join(parts)}; name the `arch` that it is of, one "
        f"of {', '.join(architectures())}"
    )


def _check_sizes(path: Path, tensors: _Tensors, resolutions: Sequence[int]) -> None:
    """Raise CheckpointError unless every BatchNorm and alpha have as many sizes as are named."""
    numbers: dict[str, set[int]] = {}
    for name, number in tensors:
        if number is not None:
            numbers.setdefault(name, set()).add(number)
    first, of_first = next(iter(numbers.items()))
    for name, own in numbers.items():
        if own != of_first or own != set(range(len(own))):
            raise CheckpointError(
                f"{path}: has {name} of sizes {_listed(own)} and {first} of {_listed(of_first)}; "
                "every BatchNorm must have all of them, from 0 on"
            )
    alpha = tensors.get((ALPHA, None))
    if alpha is not None and tuple(alpha.shape) != (len(of_first),):
        raise CheckpointError(
            f"{path}: has BatchNorms of {len(of_first)} sizes, and an alpha of {tuple(alpha.shape)}"
        )
    if len(of_first) != len(resolutions):
        raise CheckpointError(
            f"{path}: has BatchNorms of {len(of_first)} sizes, but {len(resolutions)} are named: "
            f"{', '.join(map(str, resolutions))}; name its `resolutions` in the order in which it "
            "was trained"
        )


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _values(
    path: Path,
    arch: str,
    tensors: Mapping[tuple[str, int | None], Tensor],
    network: SwitchableNetwork,
    order: Sequence[int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor of ours and its value. Both networks have the same layers in the same order."""
    kinds = tuple(kind for group in _KINDS.values() for kind in group)
    own = [m for m in network.body.modules() if isinstance(m, kinds)]
    for theirs, module in zip(layers(arch), own, strict=True):
        if not isinstance(module, _KINDS[theirs.kind]):
            raise AssertionError(f"{theirs.name} is not a {type(module).__name__}")
        for leaf in theirs.tensors:
            target = getattr(module, leaf)
            yield target, _value(path, arch, tensors, theirs, leaf, target, order)


def _value(
    path: Path,
    arch: str,
    tensors: Mapping[tuple[str, int | None], Tensor],
    layer: Layer,
    leaf: str,
    target: Tensor,
    order: Sequence[int],
) -> Tensor:
    name = f"{layer.name}.{leaf}"
    shape = target.shape[1:] if layer.kind == "norm" else target.shape
    sizes: Sequence[int | None] = order if layer.kind == "norm" else [None]
    found = [tensors[name, size] for size in sizes]
    for tensor in found:
        if tensor.shape != shape:
            raise CheckpointError(
                f"{path}: is not of {arch}: its {name} is {tuple(tensor.shape)}, not "
                f"{tuple(shape)}; other widths and grouped networks cannot be read"
            )
    value = torch.stack(found) if layer.kind == "norm" else found[0]
    return value.to(torch.float32)
