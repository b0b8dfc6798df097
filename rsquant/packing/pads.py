"""Paddings become part of what reads them: convolutions and poolings pad by themselves."""

from __future__ import annotations

import math

from rsquant.errors import PackError
from rsquant.packing.ops import Op, Pair, set_users
from rsquant.packing.weights import geometry
from rsquant.padding import RULES, Padding, Pads, added, extent_of, pads_at
from rsquant.quantizers import ActivationQuantizer


def absorb_pads(ops: list[Op]) -> list[Op]:
    """The operations without paddings; their readers have the pixels in `zeros`.

    A ReLU gives 0 for 0, and so does a quantizer that takes 0 to a level of 0: a padding passes
    them.

    Raises:
        PackError: something else reads a padding.
    """
    pads = [op for op in ops if op.kind == "pad"]
    for pad in pads:
        for user in list(dict.fromkeys(pad.users)):
            _give(pad, user, pad, pad.inputs[0])
    kept = [op for op in ops if op.kind != "pad"]
    set_users(kept)
    return kept


def _give(pad: Op, reader: Op, read: Op, instead: Op) -> None:
    """Let `reader` pad what it reads from `read` by itself, and read `instead`."""
    filler = pad.filler
    takes = {
        "conv": filler == 0,
        "maxpool": filler == -math.inf or (filler == 0 and _positive(instead)),
        "pad": reader.filler == filler,
    }
    if takes.get(reader.kind):
        reader.zeros = _together(pad, reader)
    elif filler == 0 and _keeps_zero(reader):
        for user in list(dict.fromkeys(reader.users)):
            _give(pad, user, reader, reader)
    else:
        what = "a max-pooling of values that may be negative" if reader.kind == "maxpool" else None
        raise PackError(
            f"{pad.name}: pads with {filler:g} what {what or _NAMES.get(reader.kind, reader.name)} "
            f"({reader.name}) reads; only convolutions and max-poolings can pad, so put it in "
            "front of one"
        )
    reader.inputs = tuple(instead if x is read else x for x in reader.inputs)


def _together(pad: Op, reader: Op) -> Pads | str:
    """What a reader pads by itself in the place of a padding in front of it."""
    if pad.zeros is None and reader.zeros is None:
        extent, stride, own = window_of(reader)
        for rule in RULES:
            if own == (0, 0) and all(
                pads_at(rule, sides, extent, stride) == zeros for sides, zeros in pad.zeros_at
            ):
                return rule
    elif isinstance(pad.zeros, tuple) and not isinstance(reader.zeros, str):
        return added(reader.zeros or (0, 0), pad.zeros)
    raise PackError(
        f"{pad.name}: pads what {reader.name} reads by numbers that depend on the size of the "
        'images and are not those of "same" (TensorFlow\'s); pad as that does, with no other '
        "padding beside it, or by fixed numbers"
    )


def window_of(reader: Op) -> tuple[Pair, Pair, Padding]:
    """Extent, stride and own padding of a convolution or max-pooling."""
    if reader.module is None:
        return reader.fields["kernel"], reader.fields["stride"], reader.fields["padding"]
    shape = geometry(reader.name, reader.module, image=False)
    return extent_of(shape.kernel, shape.dilation), shape.stride, shape.padding


_NAMES = {
    "conv": "a convolution",
    "norm": "a BatchNorm",
    "add": "an addition",
    "pad": "another padding",
    "avgpool": "an average",
    "linear": "a linear layer",
    "relu": "a ReLU",
    "quantize": "a quantizer",
}


def _keeps_zero(op: Op) -> bool:
    """Whether an operation gives 0 for 0."""
    if op.kind == "quantize":
        assert isinstance(op.module, ActivationQuantizer)
        taken = int((op.module.thresholds() < 0).sum())
        return float(op.module.levels()[taken]) == 0
    return op.kind == "relu"


def _positive(op: Op) -> bool:
    """Whether a result has no negative values: then zeros beside them are never the largest."""
    if op.kind in ("maxpool", "pad"):
        return _positive(op.inputs[0])
    if op.kind == "quantize":
        return isinstance(op.module, ActivationQuantizer) and not op.module.signed
    return op.kind == "relu"
