"""Weights that torchvision and timm publish, by name: their own loaders, caches and checks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from rsquant.errors import CheckpointError, ConfigError
from rsquant.packages import require
from rsquant.text import did_you_mean

TORCHVISION, TIMM = "torchvision:", "timm:"
PRETRAINED = "pretrained"
# torchvision gives these pixels of another range than it says (`transform_input`).
_HALVES = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Published:
    """Published weights.

    Attributes:
        source: what names them: torchvision:ResNet18_Weights.IMAGENET1K_V1, timm:resnet18.a1_in1k.
        arch: the network that they are of: torchvision:resnet18, timm:resnet18.
        tensors: its state dict.
        mean, std: of what their images were normalised by, per channel.
        classes: names of what they tell apart; empty where nobody says.
    """

    source: str
    arch: str
    tensors: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def is_published(source: str) -> bool:
    return source == PRETRAINED or source.startswith((TORCHVISION, TIMM))


def published(source: str, arch: str | None = None) -> Published:
    """Download published weights, or take them from the cache of who publishes them.

    Args:
        source: torchvision:IMAGENET1K_V2 (of `arch`), torchvision:ResNet18_Weights.IMAGENET1K_V1,
            torchvision:resnet18 (its default ones), timm:NAME, or pretrained: the default ones of
            `arch`.
        arch: as `rsquant.create` takes it.
    Raises:
        ConfigError: there are no such weights.
        CheckpointError: they cannot be downloaded.
        MissingPackage: timm is not installed.
    """
    own = own_name(arch)
    if source == PRETRAINED:
        if own is None:
            raise ConfigError(
                f"{source}: nobody publishes weights of '{arch}'; name a run, a file, "
                "torchvision:NAME or timm:NAME"
            )
        source = own
    if source.startswith(TIMM):
        return _of_timm(source)
    return _of_torchvision(source, own)


def own_name(arch: str | None) -> str | None:
    """What publishes weights of an architecture: torchvision:resnet18 of resnet18."""
    if arch is None or arch.startswith((TORCHVISION, TIMM)):
        return arch
    return TORCHVISION + arch if arch in _torchvision_names() else None


def _torchvision_names() -> list[str]:
    return models.list_models(models)


def _of_torchvision(source: str, arch: str | None) -> Published:
    name = source.removeprefix(TORCHVISION)
    weights, model = _torchvision_weights(name, arch)
    try:
        tensors = dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise _unreachable(
            source, f"{weights.url} (cache: {torch.hub.get_dir()})", error
        ) from error
    crop = weights.transforms()
    mean, std = (tuple(float(v) for v in getattr(crop, n)) for n in ("mean", "std"))
    if model in _HALVES:
        mean = std = (0.5, 0.5, 0.5)
    return Published(
        f"{TORCHVISION}{weights}",
        TORCHVISION + model,
        tensors,
        mean,
        std,
        tuple(weights.meta.get("categories", ())),
    )


def _torchvision_weights(name: str, arch: str | None) -> tuple[Any, str]:
    """The member of torchvision's enumerations, and the name of its model."""
    by_model = {model: models.get_model_weights(model) for model in _torchvision_names()}
    if name in by_model:
        return _default(name, by_model[name]), name
    group, _, member = name.rpartition(".")
    if group:
        for model, weights in by_model.items():
            if weights.__name__ == group:
                return _member(f"{TORCHVISION}{group}.", weights, member), model
        groups = [weights.__name__ for weights in by_model.values()]
        hint = did_you_mean(group, groups)
        raise ConfigError(f"torchvision has no weights '{name}'; {hint}".rstrip("; "))
    if arch is None or not arch.startswith(TORCHVISION):
        hint = did_you_mean(name, list(by_model), TORCHVISION)
        raise ConfigError(
            f"torchvision:{name} says not of which network; {hint}"
            "name them in full, as torchvision:ResNet18_Weights.IMAGENET1K_V1"
        )
    model = arch.removeprefix(TORCHVISION)
    if model not in by_model:
        raise ConfigError(f"torchvision has no network '{model}'; name a run or a file")
    return _member(TORCHVISION, by_model[model], member), model


def _default(model: str, weights: Any) -> Any:
    if not list(weights):
        raise ConfigError(f"torchvision publishes no weights of {model}; name a run or a file")
    return weights.DEFAULT


def _member(prefix: str, weights: Any, name: str) -> Any:
    if name not in weights.__members__:
        there = ", ".join(weights.__members__) or "none"
        raise ConfigError(
            f"there are no weights '{prefix}{name}'; of this network there are {there}"
        )
    return weights[name]


def _of_timm(source: str) -> Published:
    body = timm_network(source.removeprefix(TIMM), pretrained=True)
    mean, std = timm_normalisation(body)
    return Published(source, source, dict(body.state_dict()), mean, std, ())


def timm_network(name: str, num_classes: int | None = None, pretrained: bool = False) -> nn.Module:
    """A network that timm builds; `num_classes` None is as published.

    Raises:
        ConfigError: timm has no such network; what it would build from files or the hub is none.
        CheckpointError: its weights cannot be downloaded.
        MissingPackage: timm is not installed.
    """
    require(f"{TIMM}{name}", "timm", "timm")
    import timm

    model, _, tag = name.partition(".")
    if model not in timm.list_models():
        hint = did_you_mean(model, timm.list_models(), TIMM)
        raise ConfigError(f"arch: timm has no network '{name}'; {hint}".rstrip("; "))
    if tag and name not in timm.list_pretrained(f"{model}.*"):
        there = ", ".join(timm.list_pretrained(f"{model}.*")) or "none"
        raise ConfigError(f"arch: timm has no weights '{name}'; of this network there are {there}")
    more = {} if num_classes is None else {"num_classes": num_classes}
    try:
        body: nn.Module = timm.create_model(name, pretrained=pretrained, **more)
    # Of a download: many kinds, of the library of its hub.
    except Exception as error:
        if not pretrained:
            raise
        raise _unreachable(TIMM + name, "its hub", error) from error
    return body


def timm_normalisation(body: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the images that a network of timm is published for."""
    published: Any = getattr(body, "pretrained_cfg", None) or {}
    mean = published.get("mean") or (0.485, 0.456, 0.406)
    std = published.get("std") or (0.229, 0.224, 0.225)
    return tuple(map(float, mean)), tuple(map(float, std))


def published_network(found: Published) -> nn.Module:
    """The network that published weights are of, with them, in evaluation mode."""
    if found.arch.startswith(TIMM):
        body = timm_network(found.arch.removeprefix(TIMM))
    else:
        body = torchvision_network(found.arch.removeprefix(TORCHVISION))
    own = body.state_dict().keys()
    # Heads for training alone (GoogLeNet, Inception) are left out.
    body.load_state_dict({name: value for name, value in found.tensors.items() if name in own})
    return body.eval()


def torchvision_network(name: str, num_classes: int | None = None) -> nn.Module:
    """A network that torchvision builds, untrained; `num_classes` None is as published."""
    more: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    # These two have a second output in training unless told otherwise.
    if name in ("googlenet", "inception_v3"):
        more["aux_logits"] = False
    with warnings.catch_warnings():
        # googlenet warns of a slow initialisation.
        warnings.simplefilter("ignore", FutureWarning)
        body: nn.Module = models.get_model(name, weights=None, **more)
    return body


def _unreachable(source: str, where: str, error: BaseException) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(
        f"{source}: its weights could not be loaded from {where}: {reason:.200}; without a network "
        "give a file of them (.safetensors, .pth)"
    )
