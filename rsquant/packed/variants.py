"""Files of several widths and bits: one set of bit planes, taken apart into a network for each.

Bits: the planes and the basis of the costliest setting hold those of the others: the first K
planes, the first K values, the same scale (`quantizers.nested`). Each pair of bits has quantizers
of its own, and rows of every BatchNorm table: the tables (4, S, C) have a row for each size at each
pair, in the order of `settings.of_all`.

Widths: the weights of a narrower network are the first output channels and, of each, the first
input channels of the whole one's (`nn.widths`); basis, scale, offset and bias the first values. A
plan says which channels its steps have then. BatchNorm tables are tensors of their own, "0.5/NAME"
beside NAME, with as many rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import ConfigError
from rsquant.packed.fields import FieldError
from rsquant.packed.format import Tensors
from rsquant.packed.ops.base import OpSpec
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.plan import BITS, WIDTHS, BitsSpec, Plan, WidthSpec, plane_bytes
from rsquant.settings import Bits, Setting, Variant, bits_names, checked_bits, of_all, variants

_NORM, _BASIS, _WEIGHT = ".norm", ".basis", ".weight"
# What a narrower network may have fewer of.
CHANNELS = ("in_channels", "out_channels", "groups", "in_features")

Part = tuple[Plan, Tensors]


def variants_of(plan: Plan) -> tuple[Variant, ...]:
    """What a file holds, the costliest first; all of them say their bits."""
    sizes, bits = plan.network.resolutions, [one.bits for one in _rows(plan)]
    widths = (1.0, *(one.width for one in plan.widths))
    return variants(of_all(sizes, dict.fromkeys(bits), widths))


def _rows(plan: Plan) -> tuple[Setting, ...]:
    """The rows of a file's tables; its pairs of bits must descend in cost."""
    network = plan.network
    first = (network.wbits, network.abits)
    pairs = [first, *((one.wbits, one.abits) for one in plan.bits)]
    try:
        if list(checked_bits(pairs)) == pairs:
            return of_all(network.resolutions, pairs)
    except ConfigError:
        pass
    raise FieldError(f"bits: must be different, the costliest first, got {bits_names(pairs)}")


def of_bits(plan: Plan, tensors: Tensors, pair: Bits) -> Part:
    """Plan and tensors at a pair of bits; of all widths.

    Raises:
        FieldError: a tensor has not the planes, values or rows for it.
    """
    if not plan.bits:
        return plan, tensors
    settings = _rows(plan)
    network = plan.network
    every = (BitsSpec(network.wbits, network.abits, plan.quantizers), *plan.bits)
    one = next(spec for spec in every if (spec.wbits, spec.abits) == pair)
    if len(one.quantizers) != len(plan.quantizers):
        raise FieldError(
            f"bits {bits_names([pair])}: must have {len(plan.quantizers)} quantizers, has "
            f"{len(one.quantizers)}"
        )
    own = dataclasses.replace(network, wbits=one.wbits, abits=one.abits)
    cut = dataclasses.replace(plan, network=own, quantizers=one.quantizers, bits=())
    rows = [row for row, setting in enumerate(settings) if setting.bits == pair]
    return cut, _of_bits(tensors, one.wbits, rows, len(settings))


def _of_bits(tensors: Tensors, wbits: int, rows: Sequence[int], count: int) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition(".")
        what = f".{what}"
        if what == _NORM:
            if tensor.ndim != 3 or tensor.shape[1] != count:
                raise FieldError(f"'{name:.60}' must have {count} rows, is {tensor.shape}")
            tensor = tensor[:, rows]
        elif what == _BASIS:
            if f"{layer}.offset" in tensors or tensor.ndim != 2 or tensor.shape[1] < wbits:
                raise FieldError(f"'{name:.60}' must be (O, K), K {wbits} or more, without offset")
            tensor = np.ascontiguousarray(tensor[:, :wbits])
        elif what == _WEIGHT and f"{layer}{_BASIS}" in tensors:
            tensor = tensor[:wbits]
        tensor.flags.writeable = False
        found[name] = tensor
    return found


def whole(plan: Plan, tensors: Tensors) -> Part:
    """The network of all channels, of a file of several widths."""
    norms = [name for name in tensors if name.endswith(_NORM)]
    beside = {_table(one.width, name) for one in plan.widths for name in norms}
    kept = {name: tensor for name, tensor in tensors.items() if name not in beside}
    return dataclasses.replace(plan, widths=()), kept


def _table(width: float, name: str) -> str:
    return f"{width:g}/{name}"


def narrowed(plan: Plan, tensors: Tensors, spec: WidthSpec, every: Tensors) -> Part:
    """A narrower network, to be checked.

    Args:
        plan, tensors: of all channels, checked.
        every: tensors of the file, with the tables of each width.
    Raises:
        FieldError: the file does not say how, or has no table for it.
    """
    steps = []
    found = dict(tensors)
    for step in plan.steps:
        part = _narrower(step, spec)
        steps.append(part)
        for name, tensor in _parts_of(step, part, tensors):
            found[name] = tensor
    if unknown := spec.channels.keys() - {step.name for step in steps}:
        raise FieldError(f"width {spec.width:g}: there is no step '{min(unknown):.60}'")
    for name in tensors:
        if name.endswith(_NORM):
            if _table(spec.width, name) not in every:
                raise FieldError(f"there is no tensor '{_table(spec.width, name):.60}'")
            found[name] = every[_table(spec.width, name)]
    for tensor in found.values():
        tensor.flags.writeable = False
    return dataclasses.replace(plan, steps=tuple(steps), widths=()), found


def _narrower(step: OpSpec, spec: WidthSpec) -> OpSpec:
    """A step with the channels it has at a width."""
    fewer = spec.channels.get(step.name, {})
    for name, count in fewer.items():
        cut = isinstance(step, (ConvSpec, LinearSpec)) and name in CHANNELS
        most = getattr(step, name, None) if cut else None
        if not isinstance(most, int) or count > most:
            raise FieldError(
                f"width {spec.width:g}, step '{step.name:.60}': {name:.20} must be "
                f"{f'1 to {most}' if most else 'a number of its channels'}, got {count}"
            )
    if not isinstance(step, (ConvSpec, LinearSpec)):
        return step
    counts: dict[str, Any] = dict(fewer)
    part = dataclasses.replace(step, **counts)
    if isinstance(step, ConvSpec) and isinstance(part, ConvSpec):
        groups = part.groups
        if part.in_channels % groups or part.out_channels % groups:
            raise FieldError(
                f"width {spec.width:g}, step '{step.name:.60}': groups must divide the channels, "
                f"got groups={groups}, in_channels={part.in_channels}, "
                f"out_channels={part.out_channels}"
            )
        most = step.in_channels // step.groups
        if part.in_channels // groups > most:
            raise FieldError(
                f"width {spec.width:g}, step '{step.name:.60}': a group must have at most {most} "
                f"input channels, got {part.in_channels // groups}"
            )
    return part


def _parts_of(step: OpSpec, part: OpSpec, tensors: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a step that a narrower one cuts."""
    name = f"{step.name}{_WEIGHT}"
    if isinstance(step, LinearSpec) and isinstance(part, LinearSpec):
        yield name, np.ascontiguousarray(tensors[name][:, : part.in_features])
    if not isinstance(step, ConvSpec) or not isinstance(part, ConvSpec):
        return
    cut = [".scale", ".bias"]
    if tensors[name].dtype == np.uint8:  # bit planes
        yield name, _planes(tensors[name], step, part)
        cut += [_BASIS, ".offset"]
    else:  # (O, kh, kw, C / groups)
        inputs = part.in_channels // part.groups
        yield name, np.ascontiguousarray(tensors[name][: part.out_channels, ..., :inputs])
    for what in cut:
        if (beside := f"{step.name}{what}") in tensors:
            yield beside, tensors[beside][: part.out_channels]


def _planes(planes: NDArray[np.uint8], step: ConvSpec, part: ConvSpec) -> NDArray[np.uint8]:
    """(K, O, R) bit planes of the first channels: bits of each row are (kh, kw, channels)."""
    planes = planes[:, : part.out_channels]
    inputs, fewer = step.in_channels // step.groups, part.in_channels // part.groups
    if fewer == inputs:
        return np.ascontiguousarray(planes)
    bits = np.unpackbits(planes, axis=-1, count=step.taps, bitorder="little")
    cut = bits.reshape(*planes.shape[:2], -1, inputs)[..., :fewer]
    packed = np.packbits(cut.reshape(*planes.shape[:2], -1), axis=-1, bitorder="little")
    found = np.zeros((*planes.shape[:2], plane_bytes(part.taps)), np.uint8)
    found[..., : packed.shape[-1]] = packed
    return found


def put_together(parts: Mapping[Variant, Part]) -> Part:
    """One plan and one set of tensors for the networks of all widths and bits, costliest first.

    Raises:
        ValueError: they are not settings of one network.
    """
    widths = dict.fromkeys(one.width for one in parts)
    of_width = {
        width: _over_bits(
            {v.bits: part for v, part in parts.items() if v.width == width and v.bits}
        )
        for width in widths
    }
    plan, tensors = of_width.pop(1.0)
    specs, together = [], dict(tensors)
    for width, (other, theirs) in of_width.items():
        if other.quantizers != plan.quantizers or other.bits != plan.bits:
            raise ValueError(f"its quantizers at width {width:g} are not those of all channels")
        specs.append(WidthSpec(width, _fewer(plan, other, width)))
        for name, table in theirs.items():
            if name.endswith(_NORM):
                together[_table(width, name)] = table
    version = max(WIDTHS if specs else BITS, plan.format_version)
    together_plan = dataclasses.replace(plan, widths=tuple(specs), format_version=version)
    for spec in specs:
        _, cut = narrowed(plan, tensors, spec, together)
        _, theirs = of_width[spec.width]
        for name in cut.keys() | theirs.keys():
            both = name in cut and name in theirs
            if not both or cut[name].shape != theirs[name].shape:
                raise ValueError(f"'{name}' at width {spec.width:g} is no part of the file's")
    return together_plan, together


def _fewer(plan: Plan, other: Plan, width: float) -> dict[str, dict[str, int]]:
    """What channels the steps of a narrower plan have, by name, where they have fewer."""
    found = {}
    for step, part in zip(plan.steps, other.steps, strict=True):
        fewer: dict[str, Any] = {}
        alike: OpSpec = step
        if isinstance(step, (ConvSpec, LinearSpec)):
            fewer = {
                name: getattr(part, name)
                for name in CHANNELS
                if getattr(part, name, None) != getattr(step, name, None)
            }
            alike = dataclasses.replace(step, **fewer)
        if alike != part:
            raise ValueError(f"its step {step.name} at width {width:g} is another one")
        if fewer:
            found[step.name] = fewer
    return found


def _over_bits(settings: Mapping[Bits, Part]) -> Part:
    """One plan and one set of tensors for networks of several bits, the costliest first."""
    (first, (plan, tensors)), *others = settings.items()
    if not others:
        return plan, tensors
    specs = []
    for (wbits, abits), (other, _) in others:
        if other.steps != plan.steps:
            raise ValueError(f"its steps at {wbits}/{abits} bits are not those at {first}")
        specs.append(BitsSpec(wbits, abits, other.quantizers))
    version = max(BITS, plan.format_version)
    plan = dataclasses.replace(plan, bits=tuple(specs), format_version=version)
    rows = _rows(plan)
    together = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(_NORM):
            table = np.empty((tensor.shape[0], len(rows), tensor.shape[2]), tensor.dtype)
            for pair, (_, own) in settings.items():
                table[:, [r for r, one in enumerate(rows) if one.bits == pair]] = own[name]
            together[name] = table
    for pair, (_, own) in settings.items():
        _, theirs = of_bits(plan, together, pair)
        for name in own.keys() | theirs.keys():
            both = name in own and name in theirs
            if not both or not np.array_equal(own[name], theirs[name]):
                raise ValueError(f"'{name}' at {bits_names([pair])} bits is not part of the file's")
    return plan, together
