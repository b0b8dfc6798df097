"""Layers rewritten, in place, to what torch's exporter writes well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def as_product(pool: nn.AdaptiveAvgPool2d) -> None:
    """Let the exporter write an adaptive pooling that it refuses (VGG's 7x7 of other maps).

    Averages of rows, then of columns: two products by constant matrices.
    """
    plain = pool.forward
    size: Any = pool.output_size
    height, width = size if isinstance(size, tuple) else (size, size)

    def averages(length: int, wanted: int | None) -> Tensor:
        """(wanted, length)"""
        rows = torch.eye(length).unsqueeze(1)
        return functional.adaptive_avg_pool1d(rows, wanted or length).squeeze(1).T.contiguous()

    def forward(x: Tensor) -> Tensor:
        sides = [int(side) for side in x.shape[-2:]]
        wanted = zip(sides, (height, width), strict=True)
        if all(out is None or side % out == 0 for side, out in wanted):
            return plain(x)
        return averages(sides[0], height) @ x @ averages(sides[1], width).T

    pool.forward = forward  # type: ignore[assignment, method-assign]


def as_gemm(linear: nn.Linear) -> None:
    """Let the exporter write a Gemm, with the layer's own weights, whatever the layer is.

    Without a bias, or for more than two dimensions, it writes a product by transposed weights.
    """
    bias: Tensor | None = linear.bias
    if bias is None:
        zeros = torch.zeros(linear.out_features, device=linear.weight.device)
        linear.bias = nn.Parameter(zeros, requires_grad=False)

    plain = linear.forward

    def forward(x: Tensor) -> Tensor:
        if x.dim() == 2:
            return plain(x)
        rows = plain(x.reshape(-1, linear.in_features))
        return rows.reshape(*x.shape[:-1], linear.out_features)

    linear.forward = forward  # type: ignore[assignment, method-assign]
