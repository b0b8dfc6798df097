"""What an exported file says about itself."""

from __future__ import annotations

import json

import onnx

from rsquant.nn.switchable import SwitchableNetwork
from rsquant.tasks import DEFAULT
from rsquant.version import __version__


def describe(
    proto: onnx.ModelProto,
    model: SwitchableNetwork,
    form: str,
    resolution: int | None,
    preprocess: bool,
    **more: str,
) -> None:
    """Write the metadata; lists are JSON.

    Args:
        resolution: None for a file that takes all sizes.
        preprocess: it takes pixels.
        more: further entries.
    """
    spec = model.spec
    given = "images: (N, 3, H, W) float32, R G B, (pixel / 255 - mean) / std"
    if preprocess:
        done = "resized and cropped" if spec.task == DEFAULT else "resized to a square"
        resized = "" if resolution is None else f", {done} in the file"
        given = f"pixels: (N, H, W, 3) uint8, R G B{resized}"
    entries = {
        "producer": f"rsquant {__version__}",
        "rsquant_version": __version__,
        "form": form,
        "arch": spec.arch,
        "wbits": str(spec.wbits),
        "abits": str(spec.abits),
        "layer_bits": json.dumps({p.pattern: [p.wbits, p.abits] for p in spec.layer_bits}),
        "quantizer": spec.quantizer,
        "layer_quantizer": json.dumps({p.pattern: p.quantizer for p in spec.layer_quantizer}),
        "grid": spec.grid,
        **({"integer": "true"} if spec.integer else {}),
        **({} if spec.weight_norm == "none" else {"weight_norm": spec.weight_norm}),
        "resolution": "any" if resolution is None else str(resolution),
        "resolutions": json.dumps(list(model.resolutions)),
        "num_classes": str(spec.num_classes),
        "classes": json.dumps(list(spec.classes)),
        # Files of before there were others do not say.
        **({} if spec.task == DEFAULT else {"task": spec.task}),
        "mean": json.dumps(list(spec.mean)),
        "std": json.dumps(list(spec.std)),
        "input": given,
        **more,
    }
    del proto.metadata_props[:]
    for key, value in entries.items():
        proto.metadata_props.add(key=key, value=value)
