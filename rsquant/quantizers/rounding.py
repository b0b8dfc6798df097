"""Values to the nearest of ascending levels, on the native kernels where there are any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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


def round_weights(weight: Tensor, level: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
    """Every weight to the level of its output channel, as many as its thresholds it exceeds.

    Gradient: straight through (identity), to `weight`.

    Args:
        weight: (O, ...) float32.
        level: (O, L) float32, ascending. threshold: (O, L - 1) float32, ascending.
    Returns:
        rounded: shape of `weight`; counts, sums: (O, L) float64, as `qem.counts_and_sums`.
    """
    results: tuple[Tensor, ...] = _RoundWeights.apply(weight, level, threshold)
    return results


class _RoundWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, level: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rounded, counts, sums = _rows_to_levels(weight.detach(), level, threshold)
        ctx.mark_non_differentiable(counts, sums)
        ctx.set_materialize_grads(False)
        return rounded, counts, sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:
        return grad, None, None


def _rows_to_levels(
    weight: Tensor, level: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # Memory that nobody has written yet, where a network is built without drawing its weights.
    if _native(weight) and bool(level.isfinite().all()):
        rounded = torch.empty_like(weight)
        rows = (len(weight), weight.numel() // max(1, len(weight)))
        # In either memory order an output channel is one row.
        counts, sums = kernels.quantize_rows(
            _flat(weight).view(rows).numpy(),
            level.detach().contiguous().numpy(),
            threshold.detach().contiguous().numpy(),
            _flat(rounded).view(rows).numpy(),
            torch.get_num_threads(),
        )
        return rounded, torch.from_numpy(counts).double(), torch.from_numpy(sums)
    values = weight.flatten(1)
    taken = codes.assign(values, threshold)
    counted = qem.counts_and_sums(values, taken, level.shape[1])
    return level.gather(1, taken).view_as(weight), *counted


class RoundActivations(torch.autograd.Function):
    """Every value, or its positive part (`rectified`), to its nearest level.

    `rectified` is `ReLU` and then the same, in one pass; the result is written over `x`, which must
    not be needed otherwise.

    Gradient: 1 where x <= top level, 0 above it; if signed, 0 below the lowest level too; if
    rectified, 0 where x <= 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, level: Tensor, signed: bool, rectified: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.signed, ctx.rectified, ctx.like = signed, rectified, None
        if not _dense(x):
            x = x.contiguous()
        if _native(x):
            # A bit per value is all that backward needs.
            rounded = x if rectified else torch.empty_like(x)
            inside = np.empty(kernels.inside_words(x.numel()), np.uint16)
            counts, sums = kernels.quantize_inside(
                _flat(x).numpy(),
                level.detach().numpy(),
                float(level[0]) if signed else -math.inf,
                float(level[-1]),
                rectified,
                _flat(rounded).numpy(),
                inside,
                torch.get_num_threads(),
            )
            if rectified:
                ctx.mark_dirty(x)
            ctx.save_for_backward(torch.from_numpy(inside.view(np.int16)))
            ctx.like = x.shape, x.stride()
            figures = torch.from_numpy(counts).double(), torch.from_numpy(sums)
        else:
            assert not rectified
            ctx.save_for_backward(x, level)
            rounded, counted, summed = round_to_levels(x, level)
            figures = counted, summed
        ctx.mark_non_differentiable(*figures)
        return rounded, *figures

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        if ctx.like is None:
            x, level = ctx.saved_tensors
            top = level[-1]
            outside = (x > top) | (x < level[0]) if ctx.signed else x > top
            return grad.masked_fill(outside, 0.0), None, None, None
        (inside,) = ctx.saved_tensors
        shape, stride = ctx.like
        out = torch.empty_strided(shape, stride)
        if grad.stride() != stride or grad.dtype != torch.float32:
            grad = torch.empty_strided(shape, stride).copy_(grad)
        kernels.mask_gradient(
            _flat(grad).numpy(),
            inside.numpy().view(np.uint16),
            _flat(out).numpy(),
            torch.get_num_threads(),
        )
        return out, None, None, None


def rectifies(x: Tensor) -> bool:
    """Whether `RoundActivations` can take the place of the ReLU in front."""
    if not isinstance(x, Tensor) or torch.compiler.is_compiling():  # a proxy of torch.fx
        return False
    return _native(x)


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
