"""Layers for torch's exporter: rewritten to what it writes well, and which one it refuses."""

from __future__ import annotations

import io
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.export.quiet import quiet


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


@torch.no_grad()
def refused_layer(network: nn.Module, images: Tensor, opset: int) -> str:
    """What of a network the exporter refuses: the path and type of a layer, or the network.

    Layers without parts are exported one by one, on what they are given. Where each passes alone,
    it is an operation between them.
    """
    inputs: dict[str, tuple[Any, ...]] = {}
    handles = []
    for name, module in network.named_modules():
        if name and not any(module.children()):

            def note(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                inputs.setdefault(name, args)

            handles.append(module.register_forward_pre_hook(note))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, args in inputs.items():
        module = network.get_submodule(name)
        try:
            with quiet():
                torch.onnx.export(
                    module, args, cast(Any, io.BytesIO()), opset_version=opset, dynamo=False
                )
        except Exception:  # the exporter has no common base for its refusals
            return f"{name} ({type(module).__name__})"
    return "this network"
