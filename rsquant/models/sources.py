"""Networks and weights from what a user names: a run, a checkpoint, a file, published weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from rsquant import runs
from rsquant.errors import CheckpointError, ConfigError
from rsquant.models.checkpoint import load, read
from rsquant.models.published import PRETRAINED, is_published, published, published_network
from rsquant.models.tensor_file import metadata_of
from rsquant.models.weights_file import SUFFIXES, TORCH_SUFFIXES, read_weights
from rsquant.nn.switchable import ModelSpec

FORMS = (
    "a run, a checkpoint, a file of weights (.safetensors, .pth), torchvision:WEIGHTS, timm:NAME "
    f"or {PRETRAINED}"
)


@dataclass(frozen=True)
class Weights:
    """The tensors of a network and what is known of it.

    Attributes:
        name: of the source, for messages.
        tensors: by the names of the plain network ("conv1.weight"), or of ours without "body.".
        spec: of a network of ours; None for others.
        layers: of a network of ours: what its quantizers and layers are, as
            `layer_settings.layers_of`, by the same names.
        mean, std: what its images were normalised by; None where nobody says.
        classes: names of what it tells apart, of a network of ours; else empty.
    """

    name: str
    tensors: dict[str, Tensor]
    spec: ModelSpec | None = None
    layers: dict[str, dict[str, object]] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenNetwork:
    """A trained network from a source, on the CPU, in evaluation mode.

    Attributes:
        name: of the source, for messages.
        network: (N, 3, H, W) images, normalised by `mean` and `std` -> the output of its task. One
            of ours is a SwitchableNetwork, others are plain.
        classes: names of what it tells apart; empty where nobody says.
        resolutions: the sizes it was trained at; empty where nobody says.
    """

    name: str
    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()


def open_weights(source: str | Path, arch: str | None = None, which: str = "best") -> Weights:
    """The weights that a source means.

    Args:
        source: a run (its name or folder), a checkpoint of ours, a state dict (.safetensors, or
            .pth and .pt without pickled objects), torchvision:WEIGHTS, timm:NAME, or pretrained:
            those that are published of `arch`.
        arch: of the network that they are for.
        which: best or last, of a run.
    Raises:
        CheckpointError: missing, damaged, or not to be had; ConfigError: no such name;
        MissingPackage: timm is not installed.
    """
    text = str(source)
    if is_published(text):
        found = published(text, arch)
        # Names of classes are words there ("tench"), folders here ("n01440764"): not compared.
        return Weights(found.source, found.tensors, None, {}, found.mean, found.std)
    path = _file(text, which)
    if path.suffix in SUFFIXES and not _is_ours(path):
        return Weights(str(path), read_weights(path))
    tensors, described = read(path)
    spec = described.spec
    return Weights(
        str(path),
        {name.removeprefix("body."): value for name, value in tensors.items()},
        spec,
        {name.removeprefix("body."): entry for name, entry in (described.layers or {}).items()},
        spec.mean,
        spec.std,
        spec.classes,
    )


def open_network(source: str | Path, arch: str | None = None, which: str = "best") -> OpenNetwork:
    """The network that a source means, ready to run: a teacher, for example.

    Args:
        source: as of `open_weights`. A file of somebody else's weights says not of which network
            they are: `arch` does.
        arch: what "torchvision:IMAGENET1K_V2" and "pretrained" are of, and a file's network.
    Raises:
        As `open_weights`; and CheckpointError: weights that do not fit their network.
    """
    text = str(source)
    if not is_published(text):
        path = _file(text, which)
        if _is_ours(path):
            network = load(path)
            spec = network.spec
            return OpenNetwork(
                str(path), network, spec.mean, spec.std, spec.classes, network.resolutions
            )
        raise ConfigError(f"{path}: holds weights alone; name a run, torchvision:NAME or timm:NAME")
    found = published(text, arch)
    body = published_network(found)
    return OpenNetwork(found.source, body, found.mean, found.std, found.classes)


def holds_weights_alone(source: str | Path) -> bool:
    """Whether a source is a file of tensors that says not of which network they are."""
    path = Path(source)
    return path.suffix in SUFFIXES and path.is_file() and not _is_ours(path)


def _file(source: str, which: str) -> Path:
    """The file that a run, a checkpoint or a file of weights is; a run's checkpoint."""
    path = Path(source)
    if path.suffix in SUFFIXES and path.is_file():
        return path
    try:
        return runs.resolve(source, which).path
    except CheckpointError as error:
        if path.exists() or (runs.RUNS / path).exists():
            raise
        raise CheckpointError(f"{source}: no such run or file; name {FORMS}") from error


def _is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint of rsquant, or some other file of its own."""
    return path.suffix not in TORCH_SUFFIXES and metadata_of(path) is not None
