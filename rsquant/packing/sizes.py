"""Operations traced at several sizes become one list, whose paddings know what they did at each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rsquant.errors import PackError
from rsquant.packing.affine import Affine
from rsquant.packing.ops import Op, Pair, set_users
from rsquant.padding import added

# Of the input's size, which a resized map may have.
MAX_FACTOR = 32
_POOL = "adaptive_avgpool"


def sizes_to_see(resolutions: Sequence[int]) -> list[tuple[Pair, bool]]:
    """Heights and widths to trace a network at, and whether it must run there.

    The trained sizes, and others from half the smallest to twice the largest. An odd step between
    them gives maps of either parity in every layer.
    """
    low, high = max(8, min(resolutions) // 2), 2 * max(resolutions)
    step = (high - low) // 16 | 1
    sides = [low + step * i for i in range(17)]
    others = [
        ((height, width + 1), False) for height, width in zip(sides, sides[::-1], strict=True)
    ]
    return [((size, size), True) for size in resolutions] + others


def merged(traces: Sequence[list[Op]]) -> list[Op]:
    """The operations that traces at different sizes have in common, paddings apart.

    Where any of them pads, there is one `pad`, with `zeros_at`.

    Raises:
        PackError: they differ in something else, naming it.
    """
    lists = [[op for op in ops if not op.is_padding] for ops in traces]
    _fill_pools(lists)
    for versions in zip(*lists, strict=False):
        _name_size(versions, lists)
    for other in lists[1:]:
        for one, two in zip(lists[0], other, strict=False):
            if _described(one, lists[0]) != _described(two, other):
                raise _depends(one)
        if len(other) != len(lists[0]):
            raise _depends(max(lists[0], other, key=len)[-1])
    result: list[Op] = []
    for versions in zip(*lists, strict=True):
        op = versions[0]
        if len({version.pixels for version in versions}) > 1:
            op.pixels = None
        inputs = []
        for index in range(len(op.inputs)):
            edges = [_edge(version, index) for version in versions]
            inputs.append(_pad(edges, result) if any(pads for _, pads in edges) else edges[0][0])
        op.inputs = tuple(inputs)
        result.append(op)
    set_users(result)
    return result


def _name_size(versions: Sequence[Op], lists: Sequence[list[Op]]) -> None:
    """Say of results whose size is given in pixels, and differs, which earlier value has that size.

    Or which multiple of their input's size it is, or the input's but for small maps.
    """
    sizes = [op.fields.get("size") for op in versions]
    if None in sizes or len(set(sizes)) == 1:
        return
    pairs = list(zip((op.inputs[0].sides for op in versions), sizes, strict=True))
    for factor in range(1, MAX_FACTOR + 1):
        if all(s and size == (factor * s[0], factor * s[1]) for s, size in pairs):
            for op in versions:
                op.fields = {**op.fields, "size": None, "scale": (float(factor),) * 2}
            return
    if versions[0].kind == _POOL and (least := _least(pairs)) is not None:
        for op in versions:
            op.fields = {"size": (None, None), "least": least}
        return
    place = lists[0].index(versions[0])
    for others in zip(*(ops[:place] for ops in lists), strict=False):
        if [op.sides for op in others] == sizes:
            for op, other in zip(versions, others, strict=True):
                op.inputs = (op.inputs[0], other)
                op.fields = {**op.fields, "size": None}
            return


def _fill_pools(lists: Sequence[list[Op]]) -> None:
    """Give all traces an adaptive average that only some have: it keeps a map's size in the others.

    Such a network pools the maps of small images to more pixels.
    """
    for place in range(max(map(len, lists))):
        found = [ops[place] if place < len(ops) else None for ops in lists]
        pools = [op for op in found if op is not None and op.kind == _POOL]
        if not pools or len(pools) == len(found):
            continue
        at = {_place_read(ops, place) for ops, op in zip(lists, found, strict=True) if op in pools}
        source_at = at.pop()
        if at or source_at is None:
            continue
        for ops, op in zip(lists, found, strict=True):
            if op not in pools:
                _insert_pool(ops, place, ops[source_at], pools[0].name)


def _place_read(ops: list[Op], place: int) -> int | None:
    """Where the value is that the operation at a place reads, and nobody behind it."""
    source = ops[place].inputs[0]
    if source not in ops or any(source in op.inputs for op in ops[place + 1 :]):
        return None
    return ops.index(source)


def _insert_pool(ops: list[Op], place: int, source: Op, name: str) -> None:
    """An average of each pixel of a value, which all that come behind it read."""
    pool = Op(_POOL, name, (source,), fields={"size": source.sides}, sides=source.sides)
    pool.channels, pool.pixels = source.channels, source.pixels
    for op in ops[place:]:
        op.inputs = tuple(pool if x is source else x for x in op.inputs)
    ops.insert(place, pool)


def _least(pairs: Sequence[tuple[Any, Any]]) -> Pair | None:
    """The height and width to which smaller maps are pooled, where others keep theirs."""
    least = []
    for axis in range(2):
        sides = [(own[axis], size[axis]) for own, size in pairs if own and size]
        grown = {size for own, size in sides if size != own} or {1}
        low = max(grown)
        if len(sides) < len(pairs) or any(size != max(own, low) for own, size in sides):
            return None
        least.append(low)
    return least[0], least[1]


def _depends(op: Op) -> PackError:
    return PackError(
        f"{op.name}: what the network computes there depends on the size of its images, in more "
        "than a padding; make it the same at every size"
    )


def _described(op: Op, ops: list[Op]) -> tuple[object, ...]:
    """What must be the same at every size."""
    places = {id(other): place for place, other in enumerate(ops)}
    inputs = tuple(places[id(_edge(op, index)[0])] for index in range(len(op.inputs)))
    return (
        *(op.kind, op.name, _identity(op.module), op.fields),
        *(op.clip, op.zeros, op.filler, op.channels, inputs),
    )


def _identity(module: nn.Module | None) -> object:
    """The layer, or the numbers of constants, which each trace makes anew."""
    if isinstance(module, Affine):
        return module.scale.tolist(), module.shift.tolist()
    return id(module)


def _edge(op: Op, index: int) -> tuple[Op, list[Op]]:
    """What an operation reads, behind the paddings of it."""
    source, pads = op.inputs[index], []
    while source.is_padding:
        pads.append(source)
        source = source.inputs[0]
    return source, pads


def _pad(edges: list[tuple[Op, list[Op]]], ops: list[Op]) -> Op:
    """One padding for what different sizes pad; added to `ops`."""
    every = [pad for _, pads in edges for pad in pads]
    name, filler = every[0].name, every[0].filler
    if any(pad.filler != filler for pad in every):
        raise PackError(f"{name}: pads with different values; pad with one value")
    zeros_at = []
    for source, pads in edges:
        total = (0, 0, 0, 0)
        for pad in pads:
            assert isinstance(pad.zeros, tuple)
            if any(a * b < 0 for a, b in zip(total, pad.zeros, strict=True)):
                raise PackError(
                    f"{name}: cuts off what was padded, or pads again; do one of the two"
                )
            total = added(total, pad.zeros)
        assert source.sides is not None
        zeros_at.append((source.sides, total))
    fixed = zeros_at[0][1] if len({zeros for _, zeros in zeros_at}) == 1 else None
    source = edges[0][0]
    pad = Op("pad", name, (source,), zeros=fixed, filler=filler, zeros_at=zeros_at)
    pad.channels = source.channels
    ops.append(pad)
    return pad
