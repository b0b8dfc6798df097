"""The layers that give a network's output, and another number of classes for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rsquant.errors import ConfigError, ModelError
from rsquant.nn.integer.endings import integer_heads
from rsquant.nn.padded import PaddedConv2d
from rsquant.nn.probe import evaluating, probe, random_image
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.reparametrized import check_own
from rsquant.tasks import by_name

if TYPE_CHECKING:
    from rsquant.nn.switchable import ModelSpec, SwitchableNetwork

# Far above any network; what a checkpoint may say.
MAX_CLASSES, MAX_NAME = 10_000_000, 1000
_HEADS = (nn.Linear, nn.Conv2d, PaddedConv2d, *QUANTIZED_LAYERS)


def reset_classifier(network: SwitchableNetwork, classes: int | Sequence[str]) -> None:
    """See `SwitchableNetwork.reset_classifier`."""
    names = _checked_names(classes)
    count = len(names) or int(classes)  # type: ignore[arg-type]
    body, who = network.body, type(network.body).__name__
    modules = dict(body.named_modules())
    if network.spec.integer:
        before_change = network.spec.num_classes
        heads = integer_heads(body)
    else:
        with network.active.at_row(0):
            shown = probe(body, network.resolutions[0], by_name(network.spec.task))
        before_change = shown.num_classes
        heads = {name: modules[name] for name in sorted(shown.heads)}
    for name, head in heads.items():
        check_own(name, head, "reset_classifier")
        if type(head) not in _HEADS:
            raise ModelError(
                f"reset_classifier: {name} of {who} is a {type(head).__name__}, which "
                "cannot be rebuilt with other outputs; replace it before rsquant.convert"
            )
    before = {name: head.__dict__ for name, head in heads.items()}
    for head in heads.values():
        head.__dict__ = _with_outputs(head, count).__dict__
    try:
        given = num_logits(network)
        problem = "" if given == count else f"it gives {given} logits then"
    except ModelError as error:
        problem = str(error)
    if problem:
        for name, head in heads.items():
            head.__dict__ = before[name]
        raise ModelError(
            f"reset_classifier: {who} computes {before_change} logits from "
            f"{' and '.join(heads)}, but not {count} from {count} outputs there: {problem}; change "
            "the network before rsquant.convert"
        )
    network.spec = replace(network.spec, num_classes=count, classes=names)


def _checked_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Names of classes; none for a number of them."""
    if isinstance(classes, int) and not isinstance(classes, bool):
        if not 1 <= classes <= MAX_CLASSES:
            raise ConfigError(f"classes: must be 1 to {MAX_CLASSES:,}, got {classes}")
        return ()
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(
            f"classes: must be their number, or a list of their names, got {classes!r:.60}"
        )
    if not classes:
        raise ConfigError("classes: must be 1 or more, got an empty list of names")
    if any(len(name) > MAX_NAME for name in classes):
        raise ConfigError(f"classes: names must have at most {MAX_NAME} characters")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise ConfigError(f"classes: names must differ, got '{twice:.60}' twice")
    return tuple(classes)


def _with_outputs(layer: nn.Module, outputs: int) -> nn.Module:
    """A layer as this one with so many outputs and new weights; hooks and attributes stay."""
    new: Any = copy.copy(layer)
    new._parameters, new._modules = dict(layer._parameters), dict(layer._modules)
    setattr(new, "out_features" if isinstance(layer, nn.Linear) else "out_channels", outputs)
    for name, old in layer.named_parameters(recurse=False):
        fresh = torch.empty((outputs, *old.shape[1:]), dtype=old.dtype, device=old.device)
        setattr(new, name, nn.Parameter(fresh))
    new.reset_parameters()
    if isinstance(layer, QUANTIZED_LAYERS):
        if layer.parts is not None:  # all classes at every width
            new.parts = {width: (outputs, inputs) for width, (_, inputs) in layer.parts.items()}
        new.restart_weight_quantizer()
    return new


@torch.no_grad()
def num_logits(network: SwitchableNetwork) -> int:
    """How many classes the network tells apart in an image, whatever its ModelSpec says.

    Raises:
        ModelError: it does not run, or gives something else.
    """
    size = network.resolutions[-1]
    where = f"{network.spec.arch}: for a {size} x {size} image"
    try:
        with evaluating(network):
            logits = network(random_image(network, size))
    except Exception as error:  # whatever a user's forward raises
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise ModelError(f"{where} it fails: {reason}") from error
    task = by_name(network.spec.task)
    classes = task.num_classes(logits)
    if classes is None:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{where} it must give {task.outputs}, got {got}; choose another network or `task`"
        )
    return classes


def check_num_classes(network: SwitchableNetwork) -> None:
    """Raise ModelError unless the network gives as many logits as its ModelSpec has classes."""
    given = num_logits(network)
    if given != network.spec.num_classes:
        raise ModelError(wrong_num_classes(network.spec, given))


def wrong_num_classes(spec: ModelSpec, given: int) -> str:
    """What to say of a network that gives so many logits, and not as many as it should."""
    return (
        f"{spec.arch}: gives {given} logits, but is described as having "
        f"{spec.num_classes} classes; replace a classifier with model.reset_classifier({given})"
    )
