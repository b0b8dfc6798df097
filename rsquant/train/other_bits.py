"""From a network in training to the same one with other bits: all that does not depend on bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.quantizers import ActivationQuantizer, Quantizer
from rsquant.train.state import TrainingState


@torch.no_grad()
def carry_over(before: TrainingState, after: TrainingState) -> None:
    """Continue a training with another network, which differs in bits alone.

    Weights, BatchNorms, alpha, the optimizer's state of them, and parts are taken over. Levels of
    weights start again from the weights, those of activations as they are in the new network, to be
    calibrated. What was best before does not count any more.
    """
    old, new = before.model, after.model
    own = new.state_dict()
    names = _in_quantizers(old) | _in_quantizers(new)
    kept = {k: v for k, v in old.state_dict().items() if k not in names}
    assert kept.keys() == own.keys() - names
    new.load_state_dict(kept, strict=False)
    for layer in new.modules():
        if isinstance(layer, QUANTIZED_LAYERS) and layer.weight_quantizer is not None:
            layer.fit_weight_quantizer()
    modules = dict(old.named_modules())
    for name, module in new.named_modules():
        # Which inputs are signed was found from random images.
        if isinstance(module, ActivationQuantizer):
            was = modules[name]
            assert isinstance(was, ActivationQuantizer)
            module.signed = was.signed and module.bits > 1
    after.alpha.copy_(before.alpha)
    _carry_optimizer(before, after, names)
    for key, part in after.parts.items():
        if key in before.parts:
            part.load(_merged(before.parts[key].tensors(), part.tensors(), names))
    after.epoch, after.step, after.data = before.epoch, before.step, before.data


def _in_quantizers(network: nn.Module) -> set[str]:
    """Names of the tensors of a network's quantizers."""
    return {
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, Quantizer)
        for key in module.state_dict()
    }


def _carry_optimizer(before: TrainingState, after: TrainingState, names: set[str]) -> None:
    old = {**dict(before.model.named_parameters()), "alpha": before.alpha}
    new = {**dict(after.model.named_parameters()), "alpha": after.alpha}
    for name, parameter in new.items():
        if name in names or old[name] not in before.optimizer.state:
            continue
        after.optimizer.state[parameter] = {
            key: _like(value, parameter) if isinstance(value, Tensor) else value
            for key, value in before.optimizer.state[old[name]].items()
        }


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy; with the parameter's strides where it has its shape, as a resumed run has it."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _merged(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], names: set[str]
) -> dict[str, Tensor]:
    """The new tensors, but for those that there were and that are no quantizer's."""

    def stays(key: str) -> bool:
        alike = key in old and old[key].shape == new[key].shape
        return alike and not any(key.endswith(name) for name in names)

    return {key: (old[key] if stays(key) else value).clone() for key, value in new.items()}
