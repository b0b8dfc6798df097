"""A plan to JSON and back; every field's type and range is checked on the way in."""

from __future__ import annotations

import itertools
from typing import Any

from rsquant.packed import cascade
from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.ops.base import OpSpec, as_json
from rsquant.packed.ops.registry import operation, operations
from rsquant.packed.plan import (
    BITS,
    CASCADE,
    FORMAT,
    IMAGE_LIMIT,
    INTEGERS,
    MAX_BITS,
    MAX_CHANNELS,
    MAX_LEVEL,
    MAX_RESOLUTIONS,
    MAX_SETTINGS,
    MAX_SIDE,
    MAX_STEPS,
    OFFSETS,
    VERSION,
    WIDTHS,
    BitsSpec,
    NetworkSpec,
    Plan,
    QuantizerSpec,
    WidthSpec,
)
from rsquant.text import did_you_mean

# In nearly every network: imported with this module, so that the first file loads as others do.
for _common in ("conv", "map", "maxpool", "avgpool", "linear"):
    operation(_common)


def to_json(plan: Plan) -> dict[str, Any]:
    """The metadata of a packed file, as JSON gives it back: lists, no tuples."""
    network = as_json(plan.network)
    if plan.network.zero is None:
        del network["zero"]
    quantizers = [_quantizer_to_json(quantizer) for quantizer in plan.quantizers]
    bits = [
        {
            "wbits": one.wbits,
            "abits": one.abits,
            "quantizers": [_quantizer_to_json(quantizer) for quantizer in one.quantizers],
        }
        for one in plan.bits
    ]
    widths = [{"width": one.width, "channels": one.channels} for one in plan.widths]
    metadata = {
        "format": FORMAT,
        "version": plan.format_version,
        "rsquant": plan.version,
        "model": network,
        "quantizers": quantizers,
        "steps": [step.to_json() for step in plan.steps],
        **({"bits": bits} if bits else {}),
        **({"widths": widths} if widths else {}),
    }
    return metadata if plan.cascade is None else {**metadata, "cascade": as_json(plan.cascade)}


def _quantizer_to_json(quantizer: QuantizerSpec) -> dict[str, Any]:
    fields: dict[str, Any] = as_json(quantizer)
    thresholds = fields.pop("own_thresholds")
    return fields if thresholds is None else {**fields, "thresholds": thresholds}


def from_json(metadata: Any) -> Plan:
    """A plan from a file's metadata.

    Raises:
        FieldError: naming the field that is missing, unknown or out of range.
    """
    fields = Fields(metadata, "the metadata")
    if fields.take("format") != FORMAT:
        raise FieldError(f"the metadata is not that of a {FORMAT} file")
    version = fields.integer("version", 1, VERSION)
    network = _network(Fields(fields.take("model"), "model"), version)
    plan = Plan(
        format_version=version,
        version=fields.text("rsquant"),
        network=network,
        quantizers=tuple(
            _quantizer(Fields(value, f"quantizer {i}"), version)
            for i, value in enumerate(fields.items("quantizers", 0, MAX_STEPS))
        ),
        steps=tuple(
            _step(Fields(value, f"step {i}"))
            for i, value in enumerate(fields.items("steps", 1, MAX_STEPS))
        ),
        bits=_bits(fields, version) if fields.has("bits") else (),
        widths=_widths(fields, version) if fields.has("widths") else (),
        cascade=_cascade(fields, network, version) if fields.has("cascade") else None,
    )
    fields.finish()
    if (len(plan.bits) + 1) * (len(plan.widths) + 1) > MAX_SETTINGS:
        raise FieldError(f"'bits' and 'widths' must be at most {MAX_SETTINGS} settings in all")
    return plan


def _bits(fields: Fields, version: int) -> tuple[BitsSpec, ...]:
    if version < BITS:
        raise FieldError(
            f"'bits' are known from version {BITS} of the format on, and the file has version "
            f"{version}"
        )
    found = []
    for i, value in enumerate(fields.items("bits", 1, MAX_BITS**2)):
        one = Fields(value, f"bits {i}")
        wbits, abits = one.integer("wbits", 1, MAX_BITS), one.integer("abits", 1, MAX_BITS)
        quantizers = enumerate(one.items("quantizers", 0, MAX_STEPS))
        read = [_quantizer(Fields(v, f"bits {i}, quantizer {k}"), version) for k, v in quantizers]
        one.finish()
        found.append(BitsSpec(wbits, abits, tuple(read)))
    return tuple(found)


def _widths(fields: Fields, version: int) -> tuple[WidthSpec, ...]:
    if version < WIDTHS:
        raise FieldError(
            f"'widths' are known from version {WIDTHS} of the format on, and the file has version "
            f"{version}"
        )
    found = []
    for i, value in enumerate(fields.items("widths", 1, MAX_RESOLUTIONS)):
        one = Fields(value, f"widths {i}")
        width = one.real("width", positive=True)
        channels = one.take("channels")
        if not isinstance(channels, dict):
            raise FieldError(f"{one.where}: 'channels' must be by name of a step")
        read = {}
        for name, counts in channels.items():
            if not isinstance(counts, dict):
                raise FieldError(f"{one.where}: '{name:.60}' must have numbers of channels")
            given = Fields(counts, f"{one.where}, '{name:.60}'")
            read[name] = {key: given.integer(key, 1, MAX_CHANNELS) for key in counts}
        one.finish()
        found.append(WidthSpec(width, read))
    widths = [one.width for one in found]
    if widths != sorted(set(widths), reverse=True) or widths[0] >= 1:
        raise FieldError("'widths' must be below 1 and descend")
    # Tables are named by it.
    if len({f"{width:g}" for width in widths}) < len(widths):
        raise FieldError("'widths' must differ in their first six digits")
    return tuple(found)


def _cascade(fields: Fields, network: NetworkSpec, version: int) -> cascade.CascadeSpec:
    if version < CASCADE:
        raise FieldError(
            f"the metadata: 'cascade' is known from version {CASCADE} of the format on, and the "
            f"file has version {version}"
        )
    return cascade.read(Fields(fields.take("cascade"), "cascade"), network.resolutions)


def _network(fields: Fields, version: int) -> NetworkSpec:
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
        zero=fields.integer("zero", 0, IMAGE_LIMIT) if fields.has("zero") else None,
    )
    fields.finish()
    if network.zero is not None and version < INTEGERS:
        raise FieldError(
            f"model: 'zero' is known from version {INTEGERS} of the format on, and the file has "
            f"version {version}"
        )
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


def _step(fields: Fields) -> OpSpec:
    op = fields.take("op")
    kind = operation(op) if isinstance(op, str) else None
    if kind is None:
        hint, known = did_you_mean(op, operations()), ", ".join(operations())
        raise FieldError(f"{fields.where}: unknown op {op!r:.40}; {hint}known: {known}")
    name = fields.text("name")
    fields.where += f" ({name:.60})"
    step = kind.read(fields, name)
    fields.finish()
    return step
