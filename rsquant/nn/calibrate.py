"""Activation bases that start from data instead of the published start.

The published start suits values of deviation 1. Where a network's signal is larger (linear
bottlenecks and their sums), most values fall beyond the end levels: the forward signal shrinks, its
straight-through gradient does not, and the BatchNorm behind it multiplies the gradient, block after
block. A MobileNetV2 then diverges at its first step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rsquant.errors import ModelError
from rsquant.nn.active import side_of
from rsquant.nn.batch_statistics import normalising_by_batches
from rsquant.nn.integer.byte_scale import Bytes
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.quantizers import ActivationQuantizer


@dataclass(frozen=True)
class Calibration:
    """How well the bases fit, before and after.

    Attributes:
        images: how many were looked at.
        errors: by name of the quantizer: squared error over squared values, before and after.
        bytes: likewise by name of an integer network's map of bytes.
    """

    images: int
    errors: dict[str, tuple[float, float]]
    bytes: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.errors:
            return "nothing to fit: the bases are those of the source"
        before, after = zip(*self.errors.values(), strict=True)
        what = "bases and scales" if self.bytes else "bases"
        worst = max(self.errors, key=lambda name: self.errors[name][1])
        return (
            f"{len(self.errors)} activation {what} fitted to {self.images} images: quantization "
            f"error {_mean(before):.1f} -> {_mean(after):.1f} % of the signal's power on average, "
            f"at most {100 * max(after):.1f} % ({worst})"
        )


def _mean(shares: tuple[float, ...]) -> float:
    return 100 * sum(shares) / len(shares)


@torch.no_grad()
def calibrate(
    network: SwitchableNetwork, images: Tensor, keep: Collection[str] = ()
) -> Calibration:
    """Fit every activation basis to what its quantizer reads, in the order they run.

    Each quantizer reads what those before it give with their new bases. The scales of an integer
    network's bytes start likewise. BatchNorms normalise by the batch, as in training, unless they
    are frozen (in evaluation mode, in a network that is in training mode); nothing but activation
    bases, and such scales, changes: those of frozen layers too, once.

    Args:
        images: (N, 3, R, R) float32, normalised, N at least 2, R a trained size: the largest has
            the most values.
        keep: names of quantizers in the network's body that stay as they are.
    Returns:
        The errors; no entry for a quantizer that did not run.
    Raises:
        ModelError: a single image, or a size that is not trained.
    """
    size = side_of(images)
    if len(images) < 2 or size not in network.resolutions:
        raise ModelError(
            "calibrate: needs 2 or more images of a trained size "
            f"{network.resolutions}, got {len(images)} of {size:g} pixels"
        )
    errors: dict[str, tuple[float, float]] = {}
    bytes_errors: dict[str, tuple[float, float]] = {}
    handles = []
    for name, module in network.body.named_modules():
        if isinstance(module, (ActivationQuantizer, Bytes)) and name not in keep:

            def fit(rounding: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                assert isinstance(rounding, (ActivationQuantizer, Bytes))
                found = bytes_errors if isinstance(rounding, Bytes) else errors
                # One that runs more than once is fitted to what it reads first.
                if name not in found:
                    found[name] = rounding.start_from(args[0])

            handles.append(module.register_forward_pre_hook(fit))
    try:
        with normalising_by_batches(network) as norms:
            for norm in norms:
                norm.momentum = 0.0  # statistics stay
            for variant in network.variants:
                network(images, variant.bits, variant.width)
    finally:
        for handle in handles:
            handle.remove()
    return Calibration(len(images), errors, bytes_errors)
