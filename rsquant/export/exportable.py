"""Layers for torch's exporter: rewritten to what it writes well, and which one it refuses."""

from __future__ import annotations

import io
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.errors import ExportError
from rsquant.export.quiet import quiet
from rsquant.nn.padded import PaddedConv2d
from rsquant.padding import SAME


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


class _ConvNode(torch.autograd.Function):
    """A padded convolution that is one Conv in a graph, its padding an attribute."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        conv: PaddedConv2d,
        attributes: dict[str, Any],
    ) -> Tensor:
        return conv._conv_forward(x, weight, bias)

    @staticmethod
    def symbolic(
        g: Any, x: Any, weight: Any, bias: Any, conv: PaddedConv2d, attributes: dict[str, Any]
    ) -> Any:
        inputs = (x, weight) if conv.bias is None else (x, weight, bias)
        return g.op("Conv", *inputs, **attributes)


def as_node(name: str, conv: PaddedConv2d, any_size: bool) -> None:
    """Let the exporter write one Conv with its padding, where it writes a Pad and a Conv.

    Args:
        name: of the layer, for messages.
        any_size: a rule stays one (auto_pad), else it becomes what it pads at the traced size.
    Raises:
        ExportError: a rule, of a dilated convolution: onnxruntime has none for these.
    """
    if conv.pads is None:
        return
    rule = any_size and isinstance(conv.pads, str)
    if rule and any(d != 1 for d in conv.dilation):
        raise ExportError(
            f"{name}: computes its padding from the size of the images and has dilation "
            f"{conv.dilation}, which onnxruntime pads at one size only; leave out "
            "`single_file=True`: one file for each size"
        )
    attributes: dict[str, Any] = {
        "kernel_shape_i": list(conv.kernel_size),
        "strides_i": list(conv.stride),
        "dilations_i": list(conv.dilation),
        "group_i": conv.groups,
    }

    def forward(x: Tensor) -> Tensor:
        padding: dict[str, Any]
        if rule:
            padding = {"auto_pad_s": "SAME_UPPER" if conv.pads == SAME else "SAME_LOWER"}
        else:
            padding = {"pads_i": list(conv.pads_at(*(int(side) for side in x.shape[-2:])))}
        result: Tensor = _ConvNode.apply(x, conv.weight, conv.bias, conv, {**attributes, **padding})
        return result

    conv.forward = forward  # type: ignore[assignment, method-assign]


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
