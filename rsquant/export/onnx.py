"""One resolution of a network as one ONNX file that stock onnxruntime runs."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn

import rsquant
from rsquant.atomic import check_free, replacing
from rsquant.errors import ExportError, RsquantError
from rsquant.export.quiet import quiet
from rsquant.export.verify import IMAGES, LOGITS, QUANTIZED_VALUE, Parity, check_parity
from rsquant.nn.convert import check_smallest
from rsquant.nn.freeze import ActivationLevels, fold_batchnorms, freeze
from rsquant.nn.switchable import SwitchableNetwork

# The newest opset the exporter knows. onnxruntime 1.16 and later load it.
OPSET = 20


def export_onnx(
    model: SwitchableNetwork,
    path: str | Path,
    resolution: int = 96,
    images: Tensor | None = None,
    interpolate: bool = False,
    exist_ok: bool = False,
) -> Parity:
    """Write a resolution's ONNX file and compare it with the network in onnxruntime.

    Input "images": (N, 3, R, R) float32, normalised, any N. Output "logits": (N, classes).
    BatchNorms are folded where a convolution precedes them. Weights are stored as float32 levels.
    The metadata says what the network is and how to normalise its input.

    Args:
        path: written whole, after its parity has been measured, or not at all.
        resolution: side of the images in pixels.
        images: (N, 3, R, R) float32, normalised, to measure parity on; None generates 8.
        interpolate: allow a size that was not trained, blending its neighbours' BatchNorms.
        exist_ok: replace an existing file.
    Raises:
        ExportError: untrained size, existing or unwritable file, a network that cannot be
            exported, or a failed parity.
    """
    path = Path(path)
    check_resolution(model, resolution, interpolate)
    try:
        check_free(path, exist_ok)
        with replacing(path) as temporary:
            write(model, temporary, resolution)
            parity = check_parity(model, temporary, resolution, images)
            if not parity.passed:
                raise ExportError(
                    f"{path}: parity failed at {resolution}, nothing was kept: {parity.failure}"
                )
    except ExportError:
        raise
    except RsquantError as error:  # an existing file, a full disk, a folder not writable
        raise ExportError(str(error)) from error
    return parity


def check_resolution(model: SwitchableNetwork, resolution: int, interpolate: bool) -> None:
    """Raise ExportError for a size that was not trained, unless `interpolate`.

    With it, ModelError for a size below the network's stride.
    """
    if resolution in model.resolutions:
        return
    trained = ", ".join(map(str, model.resolutions))
    if not interpolate:
        raise ExportError(
            f"resolution {resolution} was not trained (trained: {trained}); "
            "--interpolate exports it with BatchNorms between its neighbours'"
        )
    check_smallest((resolution,), model.stride, model.spec.arch)


def write(model: SwitchableNetwork, path: Path, resolution: int, activation: bool = True) -> None:
    """Write the file, without looking what is there or whether it is right.

    Args:
        activation: False leaves activation quantizers out (the float peer of a benchmark).
    Raises:
        ExportError: the exporter refuses the network, saying which operation.
        OSError: the file cannot be written.
    """
    frozen = fold_batchnorms(freeze(model, resolution, activation).cpu()).module
    graph = to_onnx(frozen, resolution)
    for key, value in metadata(model, resolution, activation).items():
        graph.metadata_props.add(key=key, value=value)
    try:
        path.write_bytes(graph.SerializeToString())
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise OSError(errno.EFBIG, str(error)) from error


def metadata(model: SwitchableNetwork, resolution: int, activation: bool = True) -> dict[str, str]:
    """What the file says about itself; lists are JSON."""
    spec = model.spec
    return {
        "producer": f"rsquant {rsquant.__version__}",
        "rsquant_version": rsquant.__version__,
        "arch": spec.arch,
        "wbits": str(spec.wbits),
        "abits": str(spec.abits if activation else 32),
        "resolution": str(resolution),
        "resolutions": json.dumps(list(model.resolutions)),
        "num_classes": str(spec.num_classes),
        "classes": json.dumps(list(spec.classes)),
        "mean": json.dumps(list(spec.mean)),
        "std": json.dumps(list(spec.std)),
    }


class _Tapped(nn.Module):
    """A network that also returns what each activation quantizer gave, in order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.taps: list[Tensor] = []
        for module in network.modules():
            if isinstance(module, ActivationLevels):
                module.register_forward_hook(lambda _, __, output: self.taps.append(output))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.taps.clear()
        return (self.network(images), *self.taps)


@torch.no_grad()
def to_onnx(network: nn.Module, resolution: int) -> onnx.ModelProto:
    """A plain torch module as an ONNX graph.

    The outputs of its activation quantizers are named quantized_0, quantized_1, ..., in the order
    they run, so that a check can look at them; they are no outputs of the graph.
    """
    # TorchScript's exporter, deprecated as it is: 1.8 s for a ResNet-50 where torch.export's
    # takes 13 (2.15, one core), for the same nodes. It only ever sees plain layers here.
    tapped = _Tapped(network).eval()
    images = torch.zeros(2, 3, resolution, resolution)
    tapped(images)
    names = [LOGITS, *(f"{QUANTIZED_VALUE}{i}" for i in range(len(tapped.taps)))]
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.onnx.export(
                tapped, (images,), cast(Any, buffer), opset_version=OPSET, dynamo=False,
                input_names=[IMAGES], output_names=names,
                dynamic_axes={name: {0: "N"} for name in (IMAGES, *names)},
            )  # fmt: skip
    except Exception as error:  # the exporter has no common base for its refusals
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"this network cannot be written as ONNX: {reason}") from error
    graph = onnx.load_from_string(buffer.getvalue())
    del graph.graph.output[1:]
    _drop_identities(graph.graph)
    graph.producer_name, graph.producer_version = "rsquant", rsquant.__version__
    return graph


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
