"""Paddings become part of what reads them, where that pads by itself: convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence

from rsquant.errors import PackError
from rsquant.packed.ops.registry import operations
from rsquant.packed.plan import MAX_KERNEL
from rsquant.packing.ops import Op, Pair, set_users
from rsquant.packing.weights import geometry
from rsquant.padding import RULES, Padding, Pads, added, all_sides, extent_of, pads_at
from rsquant.quantizers import ActivationQuantizer


def absorb_pads(ops: list[Op]) -> list[Op]:
    """The operations without the paddings that all their readers take over, as pixels in `zeros`.

    A ReLU gives 0 for 0, and so does a quantizer that takes 0 to a level of 0: a padding passes
    them.

    Raises:
        PackError: one that stays depends on the size of the images in a way no rule has.
    """
    for pad in [op for op in ops if op.is_padding]:
        for user in list(dict.fromkeys(pad.users)):
            if _takes(pad, user, pad.inputs[0]):
                _give(pad, user, pad, pad.inputs[0])
    gone = {op for op in ops if op.is_padding and not op.users}
    kept = [op for op in ops if op not in gone]
    set_users(kept)
    for pad in kept:
        if pad.is_padding and pad.zeros is None:
            pad.zeros, pad.fields = _rule_at_sizes(pad)
    return kept


def _takes(pad: Op, reader: Op, source: Op) -> bool:
    """Whether `reader` can take over a padding of `source`, or all that read it can."""
    if pad.filler == 0 and _keeps_zero(reader):
        return bool(reader.users) and all(_takes(pad, user, reader) for user in reader.users)
    zeros = _together(pad, reader)
    if zeros is None:
        return False
    if reader.kind == "pad":
        return reader.filler == pad.filler
    positive = _positive(source)
    return operations()[reader.kind].takes_padding(reader, zeros, pad.filler, positive)


def _give(pad: Op, reader: Op, read: Op, instead: Op) -> None:
    """Let `reader` pad what it reads from `read` by itself, and read `instead`."""
    if reader.kind in ("relu", "quantize"):
        for user in list(dict.fromkeys(reader.users)):
            _give(pad, user, reader, reader)
    else:
        reader.zeros = _together(pad, reader)
    reader.inputs = tuple(instead if x is read else x for x in reader.inputs)
    read.users = [user for user in read.users if user is not reader]
    if instead is not read:
        instead.users.append(reader)


def _together(pad: Op, reader: Op) -> Pads | str | None:
    """What a reader would pad by itself in the place of a padding in front of it, or None."""
    if reader.kind == "pad":
        one, two = pad.zeros, reader.zeros
        if not isinstance(one, tuple) or not isinstance(two, tuple):
            return None
        # What was cut off does not come back.
        return None if any(a < 0 < b for a, b in zip(one, two, strict=True)) else added(one, two)
    window = window_of(reader)
    if window is None:
        return None
    extent, stride, own = window
    if pad.zeros is None and reader.zeros is None:
        for rule in RULES:
            if own == (0, 0) and all(
                pads_at(rule, sides, extent, stride) == zeros for sides, zeros in pad.zeros_at
            ):
                return rule
    elif isinstance(pad.zeros, tuple) and not isinstance(reader.zeros, str):
        zeros = added(reader.zeros or (0, 0), pad.zeros)
        if pad.inputs[0].kind == "image":
            return zeros  # only a convolution reads that; it says what is wrong with them
        if isinstance(own, tuple):
            every = zip(added(zeros, own), all_sides(extent), strict=True)
            return zeros if all(0 <= p < e for p, e in every) else None
    return None


def window_of(reader: Op) -> tuple[Pair, Pair, Padding] | None:
    """Extent, stride and own padding of a convolution or pooling; None of anything else."""
    if reader.kind == "conv":
        assert reader.module is not None
        shape = geometry(reader.name, reader.module, image=False)
        return extent_of(shape.kernel, shape.dilation), shape.stride, shape.padding
    fields = reader.fields
    if not {"kernel", "stride", "padding"} <= fields.keys():
        return None
    extent = extent_of(fields["kernel"], fields.get("dilation", (1, 1)))
    return extent, fields["stride"], fields["padding"]


def _keeps_zero(op: Op) -> bool:
    """Whether an operation gives 0 for 0."""
    if op.kind == "quantize":
        assert isinstance(op.module, ActivationQuantizer)
        taken = int((op.module.thresholds() < 0).sum())
        return float(op.module.levels()[taken]) == 0
    return op.kind == "relu"


def _positive(op: Op) -> bool:
    """Whether a result has no negative values: then zeros beside them are never the largest."""
    if op.kind == "pad":
        return op.filler >= 0 and _positive(op.inputs[0])
    if op.kind == "maxpool":
        return _positive(op.inputs[0])
    if op.kind == "quantize":
        return isinstance(op.module, ActivationQuantizer) and not op.module.signed
    return op.kind == "relu"


def _rule_at_sizes(pad: Op) -> tuple[str, dict[str, tuple[Pair, Pair]]]:
    """The rule of a padding whose pixels depend on the size of the map, and its window.

    Raises:
        PackError: there is none.
    """
    for rule in RULES:
        height, width = (
            _axis_rule(
                rule,
                [sides[axis] for sides, _ in pad.zeros_at],
                [(zeros[axis], zeros[2 + axis]) for _, zeros in pad.zeros_at],
            )
            for axis in range(2)
        )
        if height and width:
            return rule, {"window": ((height[0], width[0]), (height[1], width[1]))}
    readers = ", ".join(dict.fromkeys(user.name for user in pad.users))
    raise PackError(
        f"{pad.name}: pads the input of {readers} by amounts that depend on the size of the images "
        'and are not those of "same" (TensorFlow\'s); pad like "same", with no other padding, or '
        "by fixed amounts"
    )


def _axis_rule(rule: str, sides: Sequence[int], ends: Sequence[Pair]) -> Pair | None:
    """Extent and stride of the windows for which a rule pads sides like this.

    With r = side mod stride, or the stride where that is 0, a rule pads max(extent - r, 0) pixels.
    So one padding above 0 says what the extent is, for each stride.

    None where there are none, or several that differ at other sides.
    """
    found: set[Pair] = set()
    for stride in range(1, MAX_KERNEL + 1):
        rests = [(side - 1) % stride + 1 for side in sides]
        extents = {r + sum(end) for r, end in zip(rests, ends, strict=True) if sum(end) > 0}
        # Where nothing is padded, every extent that fits; all of 1 pixel are the same at any side.
        for extent in extents or range(1, min(rests) + 1):
            if extent <= MAX_KERNEL and all(
                _at(rule, side, extent, stride) == end
                for side, end in zip(sides, ends, strict=True)
            ):
                found.add((extent, stride) if extent > 1 else (1, 1))
    return found.pop() if len(found) == 1 else None


def _at(rule: str, side: int, extent: int, stride: int) -> Pair:
    before, _, after, _ = pads_at(rule, (side, side), (extent, extent), (stride, stride))
    return before, after
