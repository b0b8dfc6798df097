"""cuDNN's fused convolutions in place of convolution, bias, addition and ReLU one by one.

PyTorch runs a convolution, its bias and the ReLU behind it as three passes over the output. cuDNN
has one kernel for relu(conv(x) + bias) and one for relu(conv(x) + z + bias), which is what a
library made for inference uses, and so what a low-bit network has to be compared with.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_ADDITIONS = (operator.add, operator.iadd, torch.add)


class FusedConv(nn.Module):
    """relu(conv(x) + z + bias); z may be left out.

    On the CPU, and where cuDNN has no kernel for the layer, PyTorch's operations one by one; which
    it is is decided at the first call.

    Args:
        conv: with padding in pixels, of zeros.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.available: bool | None = None

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        if self.available is None:
            self.available = x.is_cuda and self._has_kernel(x, z)
        return self._fused(x, z) if self.available else self._plain(x, z)

    def _fused(self, x: Tensor, z: Tensor | None) -> Tensor:
        conv = self.conv
        how: list[Any] = [conv.stride, conv.padding, conv.dilation, conv.groups]
        if z is None:
            return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *how)
        return torch.cudnn_convolution_add_relu(x, conv.weight, z, 1.0, conv.bias, *how)

    def _plain(self, x: Tensor, z: Tensor | None) -> Tensor:
        result = self.conv(x)
        return functional.relu_(result if z is None else result.add_(z))

    def _has_kernel(self, x: Tensor, z: Tensor | None) -> bool:
        try:
            self._fused(x, z)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
        return True


def fuse(module: fx.GraphModule) -> int:
    """Put a FusedConv wherever a convolution, or one with an addition, is followed by a ReLU.

    What is replaced must be read by nothing else. Where both terms of an addition are
    convolutions, the bias of the one that stays moves to the other. The module is changed.

    Returns:
        How many FusedConvs there are.
    """
    graph = module.graph
    count = 0
    for relu in list(graph.nodes):
        if not _is_relu(module, relu):
            continue
        result: Any = _only_read_once(relu.args[0])
        if result is None:
            continue
        z = None
        if result.op == "call_function" and result.target in _ADDITIONS and len(result.args) == 2:
            first, second = result.args
            if _conv(module, first) is None:
                first, second = second, first
            addition, result, z = result, first, second
            if not isinstance(z, fx.Node) or _conv(module, result) is None:
                continue
            _move_bias(module, z, result)
        conv = _conv(module, result)
        if conv is None:
            continue
        name = f"fused_{count}"
        module.add_submodule(name, FusedConv(conv))
        with graph.inserting_before(relu):
            inputs = (result.args[0],) if z is None else (result.args[0], z)
            fused = graph.call_module(name, inputs)
        relu.replace_all_uses_with(fused)
        graph.erase_node(relu)
        if z is not None:
            graph.erase_node(addition)
        graph.erase_node(result)
        count += 1
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return count


def _is_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.ReLU
    return node.op == "call_function" and node.target in (torch.relu, functional.relu)


def _only_read_once(node: Any) -> fx.Node | None:
    return node if isinstance(node, fx.Node) and len(node.users) == 1 else None


def _conv(module: fx.GraphModule, node: Any) -> nn.Conv2d | None:
    """The convolution that a node is, if cuDNN's fused form can stand for it."""
    found = _only_read_once(node)
    if found is None or found.op != "call_module":
        return None
    calls = sum(other.target == found.target for other in module.graph.nodes)
    conv = module.get_submodule(str(found.target))
    if type(conv) is not nn.Conv2d or calls != 1:
        return None
    return None if isinstance(conv.padding, str) or conv.padding_mode != "zeros" else conv


def _move_bias(module: fx.GraphModule, z: fx.Node, result: fx.Node) -> None:
    source, target = _conv(module, z), _conv(module, result)
    if source is None or target is None or source.bias is None:
        return
    moved = source.bias if target.bias is None else target.bias + source.bias
    target.bias = nn.Parameter(moved.detach().clone(), requires_grad=False)
    source.bias = None
