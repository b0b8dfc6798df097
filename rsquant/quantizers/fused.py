"""The quantizers on a CUDA GPU: the same steps as in `lq`, in fused kernels.

One pass rounds and counts, and nothing ever waits for the device: per forward one launch for
weights, and two for activations (one where the basis stays). The plain PyTorch form in `lq` is the
specification, and what runs everywhere else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from rsquant.quantizers.over_processes import shared, total


def suits(x: Tensor, basis: Tensor) -> bool:
    """Whether the kernels take these tensors here.

    torch.compile traces the plain form, and fuses that itself.
    """
    if torch.compiler.is_compiling() or x.device != basis.device:
        return False
    return basis.dtype == torch.float32 and _runs_on(x.device)


@cache
def _runs_on(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    from rsquant.kernels.gpu.support import why_not

    return why_not(device) == ""


def activations(
    x: Tensor, basis: Tensor, grid: int | None, momentum: float | None, signed: bool
) -> Tensor:
    """Round every value to its nearest level and, with a momentum, move the basis.

    Gradient: 1 where x <= top level, 0 above it; if signed, 0 below the lowest level too.

    Args:
        x: any shape; other dtypes than float32, float16 and bfloat16 become float32.
        basis: (K,) float32, moved in place.
        grid: as in `LQActivationQuantizer`.
        momentum: basis <- momentum basis + (1 - momentum) fitted; None leaves it as it is.
        signed: as in `LQActivationQuantizer`.
    Returns:
        Like `x`: under autocast the levels are rounded here, not by the layer that follows.
    """
    from rsquant.kernels.gpu import quantize

    if x.dtype not in quantize.DTYPES:
        x = x.float()
    limit = grid or 0
    moves = momentum is not None
    rounded, partial = _RoundActivations.apply(_dense(x), basis, limit, moves, signed)
    if momentum is not None:
        if shared():
            partial = total(partial.sum(1)).unsqueeze(1)
        quantize.move_activation_basis(basis, partial, limit, momentum)
    return rounded


def weights(
    weight: Tensor, basis: Tensor, grid: int | None, ridge: float, momentum: float | None
) -> Tensor:
    """Round (O, ...) to the levels of each channel and, with a momentum, move the bases.

    Gradient: straight through (identity).

    Args:
        weight: (O, ...); other dtypes than float32 become float32.
        basis: (O, K) float32, moved in place.
        grid: as in `LQWeightQuantizer`.
        ridge: of the fit, absolute.
        momentum: as in `activations`.
    Returns:
        float32, shape and memory order of `weight`.
    """
    return _RoundWeights.apply(_dense(weight.float()), basis, grid or 0, ridge, momentum)


class _RoundActivations(torch.autograd.Function):
    """Gradient: 1 where x <= top level, 0 above it; if signed, 0 below the lowest level too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, basis: Tensor, limit: int, stats: bool, signed: bool
    ) -> tuple[Tensor, Tensor]:
        from rsquant.kernels.gpu import quantize

        rounded, level, partial = quantize.quantize_activations(x, basis, limit, stats)
        ctx.save_for_backward(x, level)
        ctx.signed = signed
        ctx.mark_non_differentiable(partial)
        # Else every backward would fill a gradient of `partial` with zeros.
        ctx.set_materialize_grads(False)
        return rounded, partial

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None]:
        if grad is None:
            return None, None, None, None, None
        from rsquant.kernels.gpu import quantize

        x, level = ctx.saved_tensors
        if grad.stride() != x.stride():
            grad = torch.empty_like(x, dtype=grad.dtype).copy_(grad)
        return quantize.clip_gradient(grad, x, level, ctx.signed), None, None, None, None


class _RoundWeights(torch.autograd.Function):
    """Gradient: straight through."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, basis: Tensor, limit: int, ridge: float, momentum: float | None
    ) -> Tensor:
        from rsquant.kernels.gpu import quantize

        return quantize.quantize_weights(weight, basis, limit, ridge, momentum)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        return grad, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """The values without gaps, in one of torch's two usual orders."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()
