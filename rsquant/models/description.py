"""A checkpoint's metadata, typed and checked: which network, which layers, which versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsquant.errors import ConfigError
from rsquant.models.factory import ARCHITECTURES
from rsquant.nn.classifier import MAX_CLASSES, MAX_NAME
from rsquant.nn.precision import BITS, MAX_PATTERNS, LayerBits, LayerQuantizer
from rsquant.nn.switchable import ModelSpec
from rsquant.packed.fields import FieldError, Fields
from rsquant.packed.plan import MAX_RESOLUTIONS, MAX_SIDE
from rsquant.settings import checked_bits, checked_widths

# Far above any network, and small enough that no message and no loop is long.
MAX_WIDTH, MAX_LAYERS = 1_000_000, 100_000


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of its network.

    Attributes:
        layers: as `layer_settings.layers_of`, by name; None in files of rsquant 0.1.
        versions: as `state_dict.versions_of`; None in files of rsquant 0.1.
    """

    spec: ModelSpec
    layers: dict[str, dict[str, Any]] | None
    versions: dict[str, int] | None


def description(metadata: dict[str, Any]) -> Description:
    """The description that `checkpoint.save` stores as metadata.

    Raises:
        FieldError: naming the field that is missing, unknown, or out of range.
    """
    fields = Fields(metadata, "its metadata")
    fields.text("format")
    version = fields.integer("version", 1, 2)
    if fields.has("rsquant"):
        fields.text("rsquant")
    result = Description(
        _spec(Fields(fields.take("model"), "model"), version),
        layers(fields) if fields.has("layers") else None,
        versions(fields) if fields.has("versions") else None,
    )
    fields.finish()
    return result


def versions(fields: Fields) -> dict[str, int]:
    """The field "versions": the version of modules' state by module, see `versions_of`."""
    value = fields.take("versions")
    if not isinstance(value, dict) or len(value) > MAX_LAYERS:
        raise FieldError(f"{fields.where}: its versions of modules are damaged")
    entries = Fields(value, "versions")
    return {name: entries.integer(name, 0, 2**31) for name in value}


def _spec(fields: Fields, version: int) -> ModelSpec:
    if fields.has("extra"):  # in the first checkpoints, never used
        fields.take("extra")
    arch = fields.text("arch", MAX_NAME)
    wbits, abits = fields.integer("wbits", 1, 32), fields.integer("abits", 1, 32)
    more: dict[str, Any] = {}
    if fields.has("width"):
        more["width"] = fields.integer("width", 1, MAX_WIDTH)
    for name in ("stem", "grid", "block", "quantizer", "task", "weight_norm"):
        if fields.has(name):
            more[name] = fields.text(name)
    if fields.has("integer"):
        more["integer"] = fields.flag("integer")
    for name, one in (("layer_bits", _layer_bits), ("layer_quantizer", _layer_quantizer)):
        if fields.has(name):
            entries = fields.items(name, 0, MAX_PATTERNS)
            where = (Fields(entry, f"{name} {i}") for i, entry in enumerate(entries))
            more[name] = tuple(map(one, where))
    if fields.has("bits"):
        more["bits"] = _bits(fields, wbits, abits)
    if fields.has("widths"):
        more["widths"] = _widths(fields)
    if version == 1:
        more["block"] = block_before_named(arch, abits)
    for name, positive in (("mean", False), ("std", True)):
        if fields.has(name):
            more[name] = fields.reals(name, 1, MAX_LAYERS, positive=positive)
    classes = fields.items("classes", 0, MAX_CLASSES) if fields.has("classes") else []
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in classes):
        raise FieldError(f"model: 'classes' must be names of at most {MAX_NAME} characters")
    spec = ModelSpec(
        arch,
        wbits,
        abits,
        fields.integers("resolutions", 1, MAX_SIDE, 1, MAX_RESOLUTIONS),
        fields.integer("num_classes", 0, MAX_CLASSES),
        classes=tuple(classes),
        **more,
    )
    fields.finish()
    if spec.classes and len(spec.classes) != spec.num_classes:
        raise FieldError(
            f"model: has {len(spec.classes)} names of classes, but {spec.num_classes} classes"
        )
    return spec


def _bits(fields: Fields, wbits: int, abits: int) -> tuple[tuple[int, int], ...]:
    """The field "bits": those of several settings, the costliest first."""
    given = fields.items("bits", 1, MAX_RESOLUTIONS)
    pairs = [Fields({"bits": one}, "model: 'bits'").integers("bits", 1, 4, 2, 2) for one in given]
    bits = tuple((pair[0], pair[1]) for pair in pairs)
    try:
        sound = checked_bits(bits) == bits and bits[0] == (wbits, abits)
    except ConfigError:
        sound = False
    if not sound:
        raise FieldError("model: 'bits' must be different pairs, and begin with wbits and abits")
    return bits


def _widths(fields: Fields) -> tuple[float, ...]:
    """The field "widths": those of several settings, 1 first."""
    widths = fields.reals("widths", 1, MAX_RESOLUTIONS, positive=True)
    try:
        return checked_widths(widths)
    except ConfigError as error:
        raise FieldError(f"model: {error}") from None


def _layer_bits(fields: Fields) -> LayerBits:
    pattern = fields.text("pattern", MAX_NAME)
    sides = [fields.integer_or_none(side, 1, max(BITS)) for side in ("wbits", "abits")]
    fields.finish()
    if any(bits not in (None, *BITS) for bits in sides) or sides == [None, None]:
        raise FieldError(f"{fields.where}: bits must be 1 to 4, 32, or null for one of them")
    return LayerBits(pattern, *sides)


def _layer_quantizer(fields: Fields) -> LayerQuantizer:
    found = LayerQuantizer(fields.text("pattern", MAX_NAME), fields.text("quantizer"))
    fields.finish()
    return found


def block_before_named(arch: str, abits: int) -> str:
    """The block of a network made before rsquant 0.2, which did not say so."""
    if arch not in ARCHITECTURES:
        return "own"
    return "preact-bare" if abits < 32 else "post"


def layers(fields: Fields) -> dict[str, dict[str, Any]]:
    """The field "layers": names to settings, whose values the network knows."""
    value = fields.take("layers")
    if (
        not isinstance(value, dict)
        or len(value) > MAX_LAYERS
        or not all(isinstance(entry, dict) for entry in value.values())
    ):
        raise FieldError("its description of the layers is damaged")
    return value
