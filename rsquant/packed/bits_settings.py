"""Files of several settings of bits: one set of bit planes, taken apart into a network for each.

The planes and the basis of the costliest setting hold those of the others: the first K planes, the
first K values, the same scale (`quantizers.nested`). Each setting has quantizers of its own, and
rows of every BatchNorm table: the tables (4, S, C) have a row for each size at each pair of bits,
in the order of `settings.of_bits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from rsquant.errors import ConfigError
from rsquant.packed.fields import FieldError
from rsquant.packed.format import Tensors
from rsquant.packed.plan import BITS, BitsSpec, Plan
from rsquant.settings import Setting, bits_names, checked_bits, of_bits

Bits = tuple[int, int]
_NORM, _BASIS, _WEIGHT = ".norm", ".basis", ".weight"


def settings_of(plan: Plan) -> tuple[Setting, ...]:
    """The rows of a file's tables; its pairs of bits must descend in cost."""
    network = plan.network
    first = (network.wbits, network.abits)
    pairs = [first, *((one.wbits, one.abits) for one in plan.others)]
    try:
        if list(checked_bits(pairs)) == pairs:
            return of_bits(network.resolutions, pairs)
    except ConfigError:
        pass
    raise FieldError(f"bits: must be different, the costliest first, got {bits_names(pairs)}")


def taken_apart(plan: Plan, tensors: Tensors) -> dict[Bits, tuple[Plan, Tensors]]:
    """Plan and tensors of each setting's network, by its bits, the costliest first.

    Args:
        plan: with `others`.
    Raises:
        FieldError: a tensor has not the planes, values or rows for it.
    """
    settings = settings_of(plan)
    network = plan.network
    every = (BitsSpec(network.wbits, network.abits, plan.quantizers), *plan.others)
    found: dict[Bits, tuple[Plan, Tensors]] = {}
    for one in every:
        pair = one.wbits, one.abits
        if len(one.quantizers) != len(plan.quantizers):
            raise FieldError(
                f"bits {bits_names([pair])}: must have {len(plan.quantizers)} quantizers, has "
                f"{len(one.quantizers)}"
            )
        own = dataclasses.replace(network, wbits=one.wbits, abits=one.abits)
        cut = dataclasses.replace(plan, network=own, quantizers=one.quantizers, others=())
        rows = [row for row, setting in enumerate(settings) if setting.bits == pair]
        found[pair] = cut, _of_setting(tensors, one.wbits, rows, len(settings))
    return found


def _of_setting(tensors: Tensors, wbits: int, rows: Sequence[int], count: int) -> Tensors:
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


def put_together(settings: Mapping[Bits, tuple[Plan, Tensors]]) -> tuple[Plan, Tensors]:
    """One plan and one set of tensors for networks of several settings, the costliest first.

    Raises:
        ValueError: they are not settings of one network.
    """
    (first, (plan, tensors)), *others = settings.items()
    specs = []
    for (wbits, abits), (other, _) in others:
        if other.steps != plan.steps:
            raise ValueError(f"its steps at {wbits}/{abits} bits are not those at {first}")
        specs.append(BitsSpec(wbits, abits, other.quantizers))
    plan = dataclasses.replace(plan, others=tuple(specs), format_version=BITS)
    rows = settings_of(plan)
    together = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(_NORM):
            table = np.empty((tensor.shape[0], len(rows), tensor.shape[2]), tensor.dtype)
            for pair, (_, own) in settings.items():
                table[:, [r for r, one in enumerate(rows) if one.bits == pair]] = own[name]
            together[name] = table
    for pair, (cut, theirs) in taken_apart(plan, together).items():
        _, own = settings[pair]
        for name in own.keys() | theirs.keys():
            both = name in own and name in theirs
            if not both or not np.array_equal(own[name], theirs[name]):
                raise ValueError(f"'{name}' at {bits_names([pair])} bits is not part of the file's")
        assert cut.steps == plan.steps
    return plan, together
