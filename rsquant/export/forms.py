"""The forms in which a network is exported, and making a graph of each.

codebook  weights as 2-bit codes and float32 tables, float32 arithmetic: exact levels.
int8      weights as 2-bit codes and int8 tables, 8-bit arithmetic; of an integer network, its own.
float     weights as float32: for whatever reads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from torch import Tensor, nn

from rsquant.errors import ConfigError, ExportError
from rsquant.export.codebook import store_as_codes
from rsquant.export.codes import LayerCodes, layer_codes, stored_as
from rsquant.export.graph import to_onnx
from rsquant.export.int8.build import to_int8
from rsquant.export.int8.points import Int8Graph
from rsquant.export.integer import IntegerGraph, to_integer_onnx
from rsquant.export.switchable import to_switchable_onnx
from rsquant.nn.finite import first_bad
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork

AUTO = "auto"
CODEBOOK, INT8, FLOAT = FORMS = ("codebook", "int8", "float")


@dataclass
class Made:
    """A graph, and for the int8 form what it was made from.

    Attributes:
        proto: the graph to be written.
        floats: with float32 weights; `proto` itself in the float form. None of an integer network.
        int8: None in the other forms.
        integer: of an integer network.
        float_bytes: size of the same network with float32 weights.
    """

    proto: onnx.ModelProto
    floats: onnx.ModelProto | None
    int8: Int8Graph | None = None
    integer: IntegerGraph | None = None
    float_bytes: int = 0

    def __post_init__(self) -> None:
        if self.floats is not None:
            self.float_bytes = self.floats.ByteSize()


def check_finite(model: SwitchableNetwork) -> None:
    """Raise ExportError naming the first weight, basis or statistic that is not finite."""
    if bad := first_bad(model.state_dict().items()):
        raise ExportError(
            f"{model.spec.arch}: {bad}; export a checkpoint from before training diverged"
        )


def choose_form(spec: ModelSpec, form: str = AUTO, single_file: bool = False) -> str:
    """The form that "auto" stands for, or the one asked for if it suits the network.

    Raises:
        ConfigError: an unknown name.
        ExportError: a form that the network or the kind of file cannot have.
    """
    if form not in (AUTO, *FORMS):
        raise ConfigError(f"form: must be one of {AUTO}, {', '.join(FORMS)}, got '{form}'")
    low_bit = spec.low_bit_weights
    if spec.integer:
        if single_file:
            raise ExportError(
                "an integer network has no form for all sizes in a single file; leave out "
                "`single_file=True`, or use `pack`"
            )
        if form not in (AUTO, INT8):
            raise ExportError(
                f"form {form}: an integer network has the form int8 only, which computes its very "
                "integers; use `form='int8'`"
            )
        return INT8
    if form == AUTO:
        if not low_bit:
            return FLOAT
        return INT8 if spec.low_bit_activations and not single_file else CODEBOOK
    if form != FLOAT and not low_bit:
        raise ExportError(
            f"form {form}: {spec.arch} has {spec.wbits}-bit weights, which have no codes; "
            "`form='float'` exports it"
        )
    if form == INT8 and single_file:
        raise ExportError(
            "form int8: has different ranges at every size, so it cannot be a single file; "
            "leave out `single_file=True`, or use `form='codebook'`"
        )
    return form


def needs_calibration(spec: ModelSpec, form: str) -> bool:
    """Whether ranges come from images; an integer network's are trained."""
    return form == INT8 and not spec.integer


def make(
    model: SwitchableNetwork,
    resolution: int,
    form: str,
    compat: bool = False,
    calibration: Tensor | None = None,
    whole: list[LayerCodes] | None = None,
) -> Made:
    """One resolution of a network as a graph, BatchNorms folded.

    Args:
        form: from `choose_form`.
        compat: for engines without 2-bit tensors and arithmetic on bytes (onnxruntime 1.20).
        calibration: (N, 3, R, R) float32, normalised; the int8 form needs it, but for an integer
            network, whose ranges are trained.
        whole: codes of the costliest of several settings, which are stored in place of the
            network's own where these are part of them.
    Raises:
        ExportError: what cannot be exported, and why.
    """
    if model.spec.integer:
        choose_form(model.spec, form)
        graph = to_integer_onnx(model, resolution, compat)
        return Made(graph.proto, None, integer=graph, float_bytes=_float_bytes(model))
    floats = to_onnx(fold_batchnorms(freeze(model, resolution).cpu()).module, resolution)
    if form == FLOAT:
        return Made(floats, floats)
    if form == INT8:
        if calibration is None or not len(calibration):
            raise ExportError(
                "form int8: needs images to calibrate on, got none; give images or calibration, or "
                "use the form codebook"
            )
        int8 = to_int8(floats, _codes(model, whole), calibration.contiguous(), compat)
        return Made(int8.proto, floats, int8)
    return _coded(floats, _codes(model, whole), compat)


def make_switchable(model: SwitchableNetwork, form: str, compat: bool = False) -> Made:
    """All resolutions of a network as one graph; see `to_switchable_onnx`."""
    floats = to_switchable_onnx(model)
    if form == FLOAT:
        return Made(floats, floats)
    return _coded(floats, layer_codes(model), compat)


def _codes(model: SwitchableNetwork, whole: list[LayerCodes] | None) -> list[LayerCodes]:
    own = layer_codes(model)
    return own if whole is None else stored_as(own, whole)


def _coded(floats: onnx.ModelProto, layers: list[LayerCodes], compat: bool) -> Made:
    proto = onnx.ModelProto()
    proto.CopyFrom(floats)
    store_as_codes(proto, layers, compat)
    return Made(proto, floats)


def _float_bytes(model: SwitchableNetwork) -> int:
    """Of an integer network's weights in float32, BatchNorms folded, at one size."""
    layers = [m for m in model.body.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return 4 * sum(layer.weight.numel() + len(layer.weight) for layer in layers)
