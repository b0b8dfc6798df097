"""A plan to JSON and back; every field's type and range is checked on the way in."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.plan import (
    FORMAT,
    MAX_BITS,
    MAX_CHANNELS,
    MAX_KERNEL,
    MAX_LEVEL,
    MAX_RESOLUTIONS,
    MAX_SIDE,
    MAX_STEPS,
    OFFSETS,
    VERSION,
    AvgPoolSpec,
    ConvSpec,
    EpilogueSpec,
    LinearSpec,
    MapSpec,
    MaxPoolSpec,
    NetworkSpec,
    Plan,
    QuantizerSpec,
    StepSpec,
)
from rsquant.padding import RULES, Padding, all_sides

# Two values at most per step, and the image.
_LAST_VALUE = 2 * MAX_STEPS
_OPS: dict[str, type[StepSpec]] = {
    "conv": ConvSpec,
    "map": MapSpec,
    "maxpool": MaxPoolSpec,
    "avgpool": AvgPoolSpec,
    "linear": LinearSpec,
}
_OP_OF = {kind: op for op, kind in _OPS.items()}


def to_json(plan: Plan) -> dict[str, Any]:
    """The metadata of a packed file, as JSON gives it back: lists, no tuples."""
    network = _as_json(plan.network)
    quantizers = [_quantizer_to_json(quantizer) for quantizer in plan.quantizers]
    return {
        "format": FORMAT,
        "version": plan.format_version,
        "rsquant": plan.version,
        "model": network,
        "quantizers": quantizers,
        "steps": [_step_to_json(step) for step in plan.steps],
    }


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _quantizer_to_json(quantizer: QuantizerSpec) -> dict[str, Any]:
    fields: dict[str, Any] = _as_json(quantizer)
    thresholds = fields.pop("own_thresholds")
    return fields if thresholds is None else {**fields, "thresholds": thresholds}


def _step_to_json(step: StepSpec) -> dict[str, Any]:
    fields = _as_json(step)
    epilogue = fields.pop("epilogue", None)
    if epilogue is not None:
        # The float value is "float" in the file; Python's own word is taken.
        epilogue["float"] = epilogue.pop("keep")
        fields.update(epilogue)
    return {"op": _OP_OF[type(step)], **fields}


def from_json(metadata: Any) -> Plan:
    """A plan from a file's metadata.

    Raises:
        FieldError: naming the field that is missing, unknown or out of range.
    """
    fields = Fields(metadata, "the metadata")
    if fields.take("format") != FORMAT:
        raise FieldError(f"the metadata is not that of a {FORMAT} file")
    version = fields.integer("version", 1, VERSION)
    plan = Plan(
        format_version=version,
        version=fields.text("rsquant"),
        network=_network(Fields(fields.take("model"), "model")),
        quantizers=tuple(
            _quantizer(Fields(value, f"quantizer {i}"), version)
            for i, value in enumerate(fields.items("quantizers", 0, MAX_STEPS))
        ),
        steps=tuple(
            _step(Fields(value, f"step {i}"))
            for i, value in enumerate(fields.items("steps", 1, MAX_STEPS))
        ),
    )
    fields.finish()
    return plan


def _network(fields: Fields) -> NetworkSpec:
    classes = fields.items("classes", 0, MAX_CHANNELS)
    if not all(isinstance(name, str) for name in classes):
        raise FieldError("model: 'classes' must be names")
    network = NetworkSpec(
        arch=fields.text("arch"),
        wbits=fields.integer("wbits", 1, MAX_BITS),
        abits=fields.integer("abits", 1, MAX_BITS),
        resolutions=fields.integers("resolutions", 1, MAX_SIDE, 1, MAX_RESOLUTIONS),
        num_classes=fields.integer("num_classes", 1, MAX_CHANNELS),
        classes=tuple(classes),
        mean=_three(fields, "mean", False),
        std=_three(fields, "std", True),
        grid=fields.text("grid"),
        stride=fields.integer("stride", 1, MAX_SIDE),
    )
    fields.finish()
    sizes = network.resolutions
    if any(a <= b for a, b in itertools.pairwise(sizes)):
        raise FieldError("model: 'resolutions' must descend")
    if network.classes and len(network.classes) != network.num_classes:
        raise FieldError(
            f"model: has {len(network.classes)} names of classes, but {network.num_classes} classes"
        )
    return network


def _three(fields: Fields, name: str, positive: bool) -> tuple[float, float, float]:
    given = fields.items(name, 3, 3)
    numbers = Fields(dict(zip("RGB", given, strict=True)), f"{fields.where}.{name}")
    red, green, blue = (numbers.real(channel, positive=positive) for channel in "RGB")
    return red, green, blue


def _quantizer(fields: Fields, version: int) -> QuantizerSpec:
    bits = fields.integer("bits", 1, MAX_BITS)
    quantizer = QuantizerSpec(
        bits,
        fields.integers("basis", -MAX_LEVEL, MAX_LEVEL, bits, bits),
        fields.real("scale", positive=True),
        _thresholds(fields, 2**bits - 1, version) if fields.has("thresholds") else None,
    )
    fields.finish()
    if quantizer.limit > MAX_LEVEL:
        raise FieldError(
            f"{fields.where}: its levels must span at most {MAX_LEVEL}, got {quantizer.limit}"
        )
    return quantizer


def _thresholds(fields: Fields, count: int, version: int) -> tuple[float, ...]:
    if version < OFFSETS:
        raise FieldError(
            f"{fields.where}: 'thresholds' are known from version {OFFSETS} of the format on, and "
            f"the file has version {version}"
        )
    thresholds = fields.reals("thresholds", count, count)
    if any(a > b for a, b in itertools.pairwise(thresholds)):
        raise FieldError(f"{fields.where}: 'thresholds' must ascend")
    return thresholds


def _step(fields: Fields) -> StepSpec:
    op = fields.take("op")
    kind = _OPS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise FieldError(f"{fields.where}: unknown op {op!r:.40}; known: {', '.join(_OPS)}")
    name = fields.text("name")
    fields.where += f" ({name:.60})"
    source = fields.integer("input", 0, _LAST_VALUE)
    step: StepSpec
    if kind is ConvSpec:
        step = _conv(fields, name, source)
    elif kind is MapSpec:
        step = MapSpec(name, source, _epilogue(fields))
    elif kind is MaxPoolSpec:
        output = fields.integer("output", 1, _LAST_VALUE)
        kernel, stride = fields.pair("kernel", 1, MAX_KERNEL), fields.pair("stride", 1, MAX_KERNEL)
        step = MaxPoolSpec(name, source, output, kernel, stride, _padding(fields))
        if isinstance(step.padding, tuple):
            # Alike on both sides, it is torch's to allow; else every window must have pixels.
            most = kernel if len(step.padding) == 4 else tuple(k // 2 + 1 for k in kernel)
            if any(p >= m for p, m in zip(all_sides(step.padding), (*most, *most), strict=True)):
                raise FieldError(
                    f"{fields.where}: padding must be at most half the kernel, or, where sides "
                    "differ, smaller than the kernel"
                )
    elif kind is AvgPoolSpec:
        norm = fields.text_or_none("norm")
        step = AvgPoolSpec(
            name,
            source,
            fields.integer("output", 1, _LAST_VALUE),
            norm,
            _eps(fields, "eps", norm),
            fields.flag("relu"),
            fields.real_or_none("clip", 0.0),
        )
    else:
        step = LinearSpec(
            name,
            source,
            fields.integer("output", 1, _LAST_VALUE),
            fields.integer("in_features", 1, MAX_CHANNELS),
            fields.integer("out_features", 1, MAX_CHANNELS),
        )
    fields.finish()
    return step


def _padding(fields: Fields) -> Padding:
    value = fields.take("padding")
    if isinstance(value, str):
        if value not in RULES:
            raise FieldError(
                f"{fields.where}: 'padding' must be pixels or one of {', '.join(RULES)}, "
                f"got {value!r:.40}"
            )
        return value
    pixels = Fields({"padding": value}, fields.where).integers(
        "padding", 0, MAX_KERNEL * MAX_KERNEL, 2, 4
    )
    if len(pixels) == 2:
        return pixels[0], pixels[1]
    if len(pixels) == 4:
        return pixels[0], pixels[1], pixels[2], pixels[3]
    raise FieldError(f"{fields.where}: 'padding' must be 2 or 4 numbers, got 3")


def _conv(fields: Fields, name: str, source: int) -> ConvSpec:
    in_channels = fields.integer("in_channels", 1, MAX_CHANNELS)
    out_channels = fields.integer("out_channels", 1, MAX_CHANNELS)
    kernel = fields.pair("kernel", 1, MAX_KERNEL)
    stride = fields.pair("stride", 1, MAX_KERNEL)
    dilation = fields.pair("dilation", 1, MAX_KERNEL)
    padding = _padding(fields)
    groups = fields.integer("groups", 1, MAX_CHANNELS)
    if in_channels % groups or out_channels % groups:
        raise FieldError(
            f"{fields.where}: groups must divide the channels, got groups={groups}, "
            f"in_channels={in_channels}, out_channels={out_channels}"
        )
    step = ConvSpec(
        name,
        source,
        in_channels,
        out_channels,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        _epilogue(fields),
    )
    most = (*step.extent, *step.extent)
    if isinstance(padding, tuple) and any(
        p >= m for p, m in zip(all_sides(padding), most, strict=True)
    ):
        raise FieldError(f"{fields.where}: padding must be smaller than the (dilated) kernel")
    return step


def _epilogue(fields: Fields) -> EpilogueSpec:
    norm, codes_norm = fields.text_or_none("norm"), fields.text_or_none("codes_norm")
    epilogue = EpilogueSpec(
        norm=norm,
        eps=_eps(fields, "eps", norm),
        add=fields.integer_or_none("add", 1, _LAST_VALUE),
        relu=fields.flag("relu"),
        clip=fields.real_or_none("clip", 0.0),
        keep=fields.integer_or_none("float", 1, _LAST_VALUE),
        codes=fields.integer_or_none("codes", 1, _LAST_VALUE),
        codes_norm=codes_norm,
        codes_eps=_eps(fields, "codes_eps", codes_norm),
        codes_relu=fields.flag("codes_relu"),
        codes_clip=fields.real_or_none("codes_clip", 0.0),
        quantizer=fields.integer_or_none("quantizer", 0, MAX_STEPS),
    )
    if epilogue.keep is None and epilogue.codes is None:
        raise FieldError(f"{fields.where}: writes neither 'float' nor 'codes'")
    if (epilogue.codes is None) != (epilogue.quantizer is None):
        raise FieldError(f"{fields.where}: 'codes' and 'quantizer' go together")
    if epilogue.codes is None and codes_norm is not None:
        raise FieldError(f"{fields.where}: 'codes_norm' needs 'codes'")
    return epilogue


def _eps(fields: Fields, name: str, norm: str | None) -> float:
    """Of a norm; without one it says nothing."""
    return fields.real(name, 0.0, positive=norm is not None)
