"""An activation quantizer to its entry in a packed file.

Levels are there sums of subsets of a basis, with no offset: 0 is the empty sum, for paddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from rsquant.errors import PackError
from rsquant.packed.plan import MAX_BITS, QuantizerSpec
from rsquant.quantizers import ActivationQuantizer, codes

_NEVER = float(np.finfo(np.float32).max)


@torch.no_grad()
def quantizer_spec(name: str, quantizer: ActivationQuantizer) -> QuantizerSpec:
    """A quantizer's integer basis, scale and thresholds; it must have a grid.

    Args:
        name: of its layer, for messages.
    Raises:
        PackError: levels that no basis of `MAX_BITS` integers gives, or thresholds that are no
            ascending numbers.
    """
    form = quantizer.on_grid()
    integers = form.integers().tolist()
    thresholds = quantizer.thresholds()
    _check_thresholds(name, thresholds.tolist(), len(integers))
    scale = float(form.scale)
    if scale < float(np.finfo(np.float32).tiny):
        # One level, 0, whatever the scale.
        return QuantizerSpec(quantizer.bits, (0,) * quantizer.bits, 1.0)
    basis = without_offset(form.basis.tolist(), int(form.offset))
    if len(basis) > MAX_BITS:
        raise PackError(
            f"{name}: its levels {', '.join(map(str, integers))} times a scale do not include "
            f"0, the value of padding, and with {MAX_BITS} bits there is no room for it; use fewer "
            "bits, or levels of which one is 0"
        )
    spec = QuantizerSpec(len(basis), basis, scale)
    sums = spec.levels.tolist()
    midpoints = torch.equal(thresholds, codes.thresholds(quantizer.levels()))
    if sums == integers and midpoints:
        return spec
    return QuantizerSpec(spec.bits, basis, scale, _moved(thresholds.tolist(), integers, sums))


def without_offset(basis: Sequence[int], offset: int) -> tuple[int, ...]:
    """A basis, the sums of whose subsets hold offset + sum_k q_k c_k for every c in {0, 1}.

    Turning a digit, q c = q + (-q) (1 - c), changes the sign of its value and adds q to the offset.
    What turning leaves of an offset is one more basis value.
    """
    turned = itertools.product((False, True), repeat=len(basis))
    choices = [
        ([-q if t else q for q, t in zip(basis, turn, strict=True)], offset + _sum(basis, turn))
        for turn in turned
    ]
    best, left = min(choices, key=lambda choice: abs(choice[1]))
    return (*best, left) if left else tuple(best)


def _sum(basis: Sequence[int], turn: Sequence[bool]) -> int:
    return sum(q for q, t in zip(basis, turn, strict=True) if t)


def _moved(
    thresholds: Sequence[float], integers: Sequence[int], sums: Sequence[int]
) -> tuple[float, ...]:
    """Thresholds between `sums` that give the levels that `thresholds` give between `integers`.

    A sum that is no level is passed together with the next one that is.
    """
    if list(sums) == list(integers):
        return tuple(thresholds)
    bounds = [-_NEVER, *thresholds]
    return tuple(
        next((bounds[i] for i, level in enumerate(integers) if level >= total), _NEVER)
        for total in sums[1:]
    )


def _check_thresholds(name: str, thresholds: Sequence[float], levels: int) -> None:
    ascending = all(a <= b for a, b in itertools.pairwise(thresholds))
    if len(thresholds) != levels - 1 or not ascending or not np.isfinite(thresholds).all():
        raise PackError(
            f"{name}: a quantizer of {levels} levels needs {levels - 1} ascending thresholds, got "
            f"{', '.join(f'{t:g}' for t in thresholds)}"
        )
