"""Batch normalisation by the statistics of a batch whose parts are in several processes.

    y = gamma (x - mean) / sqrt(var + eps) + beta

mean and var are of all N values of a channel, in all processes; n_r of them with mean m_r and
squared deviations d_r are in process r:

    mean = sum_r n_r m_r / N        N var = sum_r (d_r + n_r (m_r - mean)**2)

Gradient of x, with x^ = (x - mean) / sqrt(var + eps) and both means over all processes:

    gamma / sqrt(var + eps) (dy - mean(dy) - x^ mean(dy x^))

Those of gamma and beta are of this process's part; DistributedDataParallel brings them together.
torch's SyncBatchNorm does the same on CUDA devices alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rsquant.quantizers.over_processes import gathered, total


def synced_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise (N, C, ...); weight and bias (C,).

    Returns:
        y, like `x`; mean and unbiased variance (C,) float32, the same bits in all processes.
    """
    y, mean, var = _SyncedBatchNorm.apply(x, weight, bias, eps)
    return y, mean, var


class _SyncedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        dims = [d for d in range(x.dim()) if d != 1]
        own_var, own_mean = torch.var_mean(x.float(), dims, correction=0)
        own_count = torch.full_like(own_mean, x.numel() // x.shape[1])
        own = torch.stack([own_count, own_mean, own_var]).double()
        # (W, 3, C), added in the order of ranks: the same bits in all processes.
        counts, means, variances = torch.stack(gathered(own)).unbind(1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        deviations = (counts * (variances + (means - mean).square())).sum(0)
        scale = torch.rsqrt(deviations / count + eps).float()
        y = functional.batch_norm(
            x, mean.float(), (deviations / count).float(), weight, bias, False, 0.0, eps
        )
        ctx.save_for_backward(x, weight, mean.float(), scale, count)
        unbiased = (deviations / (count - 1).clamp_min(1)).float()
        mean = mean.float()
        ctx.mark_non_differentiable(mean, unbiased)
        return y, mean, unbiased

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        dy = grad.float()
        of_bias, of_weight = dy.sum(dims), (dy * normal).sum(dims)
        means = (total(torch.stack([of_bias, of_weight]).double()) / count).float()
        centred = dy - means[0].view(shape) - normal * means[1].view(shape)
        of_x = centred * (weight.float() * scale).view(shape)
        return of_x.to(x.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None
