"""The end of a network: a map of logits, one linear layer, or a sum of several as one.

    a (W x + b) + c (V y + d) = (a W, c V) (x, y) + a b + c d

as networks with a second head for distillation give in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import PackError
from rsquant.nn.quantized import QuantLinear
from rsquant.packing.affine import Affine
from rsquant.packing.ops import Op, needed
from rsquant.packing.weights import quantized_weight


def end_in_logits(body: nn.Module, ops: list[Op]) -> list[Op]:
    """The operations with a linear layer as the last, unless they end in a map; linear layers
    before it are convolutions.

    A 1x1 convolution of one pixel is a linear layer.

    Raises:
        PackError: the result is one pixel that no linear layer gives.
    """
    last = ops[-1] if ops else None
    if last is not None and not last.pooled and last.kind not in ("image", "linear"):
        return _with_convolutions(ops)
    heads = [] if last is None else _heads(last)
    if last is None or heads is None or not heads:
        got = "nothing" if last is None else f"{last.name} ({last.kind})"
        raise PackError(
            f"{type(body).__name__}: must end in a Linear layer to be packed, ends in {got}; use a "
            "network with such a classifier"
        )
    if heads[0].op is not last:
        ops = _as_one(ops, heads)
        last = ops[-1]
    elif last.kind == "conv":
        last.kind, last.module = "linear", _linear(heads)
    _with_convolutions(ops[:-1])
    return ops


def float_heads(ops: Sequence[Op]) -> set[Op]:
    """The convolutions of a map of logits: with no other layer between them and the result."""
    found: set[Op] = set()
    pending = list(ops[-1:])
    while pending:
        op = pending.pop()
        if op.kind == "conv":
            found.add(op)
        else:
            pending += op.inputs
    return found


def _with_convolutions(ops: list[Op]) -> list[Op]:
    """The same, linear layers as convolutions."""
    for op in ops:
        if op.kind == "linear":
            op.kind = "conv"
    return ops


class _Head:
    """scale (W x + b) + shift, of a layer; scale and shift are (classes,) float64."""

    def __init__(self, op: Op, scale: Tensor, shift: Tensor) -> None:
        self.op, self.scale, self.shift = op, scale, shift


def _heads(op: Op) -> list[_Head] | None:
    """The linear layers that a result is a sum of; None where it is more than that."""
    if _is_linear(op):
        ones = torch.ones(op.channels, dtype=torch.float64)
        return [_Head(op, ones, 0 * ones)]
    if op.kind == "add":
        one, other = (_heads(source) for source in op.inputs)
        return None if one is None or other is None else one + other
    module = op.module
    if op.kind == "norm" and isinstance(module, Affine) and module.norm is None:
        heads = _heads(op.inputs[0])
        if heads is None:
            return None
        for head in heads:
            head.scale, head.shift = module.scale * head.scale, module.scale * head.shift
        heads[0].shift = heads[0].shift + module.shift
        return heads
    return None


def _is_linear(op: Op) -> bool:
    conv = op.module
    return op.kind == "linear" or (
        op.kind == "conv"
        and op.pooled
        and type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.groups) == ((1, 1), 1)
    )


def _linear(heads: list[_Head]) -> nn.Linear:
    """The layer of all inputs, one after the other."""
    weights, bias = [], torch.zeros(heads[0].op.channels, dtype=torch.float64)
    for head in heads:
        layer: Any = head.op.module
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        weights.append(head.scale[:, None] * quantized_weight(layer).detach().flatten(1).double())
        own = 0.0 if layer.bias is None else layer.bias.detach().double()
        bias += head.scale * own + head.shift
    weight = torch.cat(weights, 1)
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.float(), requires_grad=False)
    linear.bias = nn.Parameter(bias.float(), requires_grad=False)
    return linear


def _as_one(ops: list[Op], heads: list[_Head]) -> list[Op]:
    """The operations with one linear layer of all inputs at the end."""
    inputs = tuple(head.op.inputs[0] for head in heads)
    first, last = heads[0].op, ops[-1]
    layers = [head.op.module for head in heads]
    if any(isinstance(layer, QuantLinear) and layer.weight_quantizer for layer in layers):
        raise PackError(
            f"{last.name}: adds what low-bit layers give; let a Linear layer that stays in float32 "
            "be the last"
        )
    joined = inputs[0]
    if len(inputs) > 1:
        joined = Op("concat", f"{last.name}.inputs", inputs, pixels=(1, 1), sides=(1, 1))
        joined.channels = sum(source.channels for source in inputs)
    end = Op("linear", first.name, (joined,), _linear(heads), pixels=(1, 1), sides=(1, 1))
    end.channels = first.channels
    return needed([*ops, *(op for op in (joined, end) if op not in ops)], end)
