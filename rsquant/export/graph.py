"""A plain torch module as an ONNX graph."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from rsquant.errors import ExportError
from rsquant.export.exportable import as_gemm, as_node, as_product, refused_layer
from rsquant.export.norms import factor_and_offset
from rsquant.export.quiet import quiet
from rsquant.nn.freeze import ActivationLevels
from rsquant.nn.padded import PaddedConv2d
from rsquant.text import first_line
from rsquant.version import __version__

# The newest opset the exporter knows. onnxruntime 1.17 and later load it.
OPSET = 20
IMAGES, LOGITS = "images", "logits"
# What the output of an activation quantizer is named, and a number.
QUANTIZED_VALUE = "quantized_"
# What the exporter puts before the path of a module's parameter.
ROOT = "network."


class _Tapped(nn.Module):
    """A network that also returns what each activation quantizer gave, in order."""

    def __init__(self, network: nn.Module, any_size: bool) -> None:
        super().__init__()
        self.network = network
        self.taps: list[Tensor] = []
        for name, module in network.named_modules():
            if isinstance(module, ActivationLevels):
                module.register_forward_hook(lambda _, __, output: self.taps.append(output))
            elif type(module) is nn.Linear:
                as_gemm(module)
            elif type(module) is nn.AdaptiveAvgPool2d:
                as_product(module)
            elif type(module) is PaddedConv2d:
                as_node(name, module, any_size)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.taps.clear()
        return (self.network(images), *self.taps)


@torch.no_grad()
def to_onnx(network: nn.Module, resolution: int, any_size: bool = False) -> onnx.ModelProto:
    """A plain torch module as an ONNX graph: images (N, 3, R, R) to logits (N, classes).

    Parameters are initializers named `ROOT` and their path in the module. The outputs of its
    activation quantizers are named quantized_0, quantized_1, ..., in the order they run, so that a
    check can look at them; they are no outputs of the graph.

    Args:
        any_size: the graph is meant for other sizes too: what convolutions pad stays a rule where
            it is one, else it is that of the resolution, in pixels.
    Raises:
        ExportError: the exporter refuses the network, saying which operation.
    """
    # TorchScript's exporter, deprecated as it is: 1.8 s for a ResNet-50 where torch.export's
    # takes 13 (2.15, one core), for the same nodes. It only ever sees plain layers here.
    tapped = _Tapped(network, any_size).eval()
    images = torch.zeros(2, 3, resolution, resolution)
    try:
        tapped(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ExportError(
            f"the network does not run at {resolution} x {resolution}: {first_line(error)}; choose "
            "another `resolution`"
        ) from error
    names = [LOGITS, *(f"{QUANTIZED_VALUE}{i}" for i in range(len(tapped.taps)))]
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.onnx.export(
                tapped,
                (images,),
                cast(Any, buffer),
                opset_version=OPSET,
                dynamo=False,
                # Otherwise it folds BatchNorms itself, under names that no layer has.
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=[IMAGES],
                output_names=names,
                dynamic_axes={name: {0: "N"} for name in (IMAGES, *names)},
            )
    except Exception as error:  # the exporter has no common base for its refusals
        where = refused_layer(tapped.network, images, OPSET)
        raise ExportError(f"{where} cannot be written as ONNX: {first_line(error)}") from error
    proto = onnx.load_from_string(buffer.getvalue())
    del proto.graph.output[1:]
    _drop_identities(proto.graph)
    _fold_norms(proto.graph)
    proto.producer_name, proto.producer_version = "rsquant", __version__
    return proto


def _drop_identities(graph: onnx.GraphProto) -> None:
    """Remove Identity nodes: the exporter shares equal tensors through them."""
    outputs = {output.name for output in graph.output}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        named = node.output[0] in outputs or node.output[0].startswith(QUANTIZED_VALUE)
        if node.op_type == "Identity" and not named:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _fold_norms(graph: onnx.GraphProto) -> None:
    """Fold constant BatchNorms into convolutions, as `freeze.fold_batchnorms` does.

    It folds what is left of a network that torch.fx cannot trace. Weights keep their names.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {node.output[0]: node for node in graph.node}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    kept = []
    for node in graph.node:
        conv = producer.get(node.input[0]) if node.input else None
        if (
            node.op_type != "BatchNormalization"
            or conv is None
            or conv.op_type != "Conv"
            or readers[node.input[0]] > 1
            or readers[conv.input[1]] > 1
            or any(name not in constants for name in (*node.input[1:], *conv.input[1:]))
        ):
            kept.append(node)
            continue
        values = [numpy_helper.to_array(constants[name]) for name in node.input[1:]]
        factor, offset = factor_and_offset(node, values)
        weight = numpy_helper.to_array(constants[conv.input[1]])
        scaled = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.float32)
        constants[conv.input[1]].CopyFrom(numpy_helper.from_array(scaled, conv.input[1]))
        bias = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else 0.0
        folded = (bias * factor + offset).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(folded, f"{node.output[0]}/folded_bias"))
        del conv.input[2:]
        conv.input.append(f"{node.output[0]}/folded_bias")
        conv.output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def set_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Raise the version of the standard operators, and of the file format, to what it needs.

    The operators that `to_onnx` writes mean the same from opset 20 to 25: only types were added.
    """
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, opset)
            # The file format of the release that brought the opset: newer ones old engines refuse.
            proto.ir_version = {20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}[entry.version]
