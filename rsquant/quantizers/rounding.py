"""Values to the nearest of ascending levels, on the native kernels where there are any."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rsquant import kernels
from rsquant.quantizers import codes, qem


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.to(x.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, to the bit, in the dtype of `x`. Gradient: identity, to `x`.

    (The usual x + (rounded - x).detach() rounds, so that two weights of one level would differ.)
    """
    result: Tensor = _StraightThrough.apply(x, rounded)
    return result


class RoundWeights(torch.autograd.Function):
    """Each row to its nearest levels. Gradient: straight through."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, level: Tensor, taken: Tensor) -> Tensor:
        return level.gather(1, taken)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class RoundActivations(torch.autograd.Function):
    """Every value to its nearest level.

    Gradient: 1 where x <= top level, 0 above it; if signed, 0 below the lowest level too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Tensor, signed: bool) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, level)
        ctx.signed = signed
        rounded, counts, sums = round_to_levels(x, level)
        ctx.mark_non_differentiable(counts, sums)
        return rounded, counts, sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        x, level = ctx.saved_tensors
        top = level[-1]
        if _native(x) and grad.dtype == torch.float32:
            if grad.stride() != x.stride():
                grad = torch.empty_like(x).copy_(grad)
            out = torch.empty_like(x)
            threads = torch.get_num_threads()
            kernels.clip_gradient(
                _flat(grad).numpy(),
                _flat(x).numpy(),
                float(level[0]) if ctx.signed else -math.inf,
                float(top),
                _flat(out).numpy(),
                threads,
            )
            return out, None, None
        outside = (x > top) | (x < level[0]) if ctx.signed else x > top
        return grad.masked_fill(outside, 0.0), None, None


def round_to_levels(x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round every value of a tensor to its nearest level; halfway goes down.

    Args:
        x: any shape, float32.
        level: (L,) float32, ascending.
    Returns:
        rounded: shape of `x`; counts, sums: (L,) float64, as `qem.counts_and_sums`.
    """
    if not _dense(x):
        x = x.contiguous()
    if _native(x):
        rounded = torch.empty_like(x)
        threads = torch.get_num_threads()
        counts, sums = kernels.quantize_stats(
            _flat(x).numpy(), level.detach().numpy(), _flat(rounded).numpy(), threads
        )
        return rounded, torch.from_numpy(counts).double(), torch.from_numpy(sums)
    values = _flat(x)
    taken = codes.assign(values, codes.thresholds(level))
    # Indices in the order of x give levels in the order of x; torch.compile could not trace a copy
    # into a view of the result.
    rounded = level[taken.as_strided(x.shape, x.stride())]
    return rounded, *qem.counts_and_sums(values, taken, level.numel())


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _native(x: Tensor) -> bool:
    suitable = x.device.type == "cpu" and x.dtype == torch.float32 and _dense(x)
    return suitable and kernels.has_native()


def _flat(x: Tensor) -> Tensor:
    """The values of a dense tensor in the order in which they lie in memory, without a copy."""
    return x.detach().as_strided((x.numel(),), (1,))
