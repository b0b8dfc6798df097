"""Channels that a forward shuffles by hand: a view of five dimensions, two of them exchanged.

    x.view(n, groups, channels // groups, h, w).transpose(1, 2).reshape(n, channels, h, w)

The steps between become operations that nothing reads at the end, and go.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from rsquant.packed.ops.channels import ChannelsSpec
from rsquant.packing.call import Call, argument
from rsquant.packing.ops import Op

# Kinds of what lies between: channels in groups, and with groups and channels exchanged.
_GROUPED, _EXCHANGED = "channels in groups", "exchanged channels"


def shuffle_step(call: Call) -> Op | None:
    """What one call of a shuffle makes; None where the call is something else."""
    node = call.node
    given = argument(node, 0, "input", None)
    if call.module is not None or not call.is_value(given):
        return None
    x = call.value(given)
    if call.what in ("view", "reshape"):
        sizes = _sizes(node)
        if x.kind in (_GROUPED, _EXCHANGED) and len(sizes) == 4:
            source = x.inputs[0]
            groups = x.fields["groups"] if x.kind == _EXCHANGED else 1
            found: Op = ChannelsSpec.shuffled(call, source, groups)
            return found
        if len(sizes) == 5:
            groups = sizes[1]
            if type(groups) is not int and type(sizes[2]) is int:  # (n, channels // k, k, h, w)
                groups = x.channels // sizes[2]
            if type(groups) is not int or groups < 1 or x.channels % groups:
                call.refuse(f"sees {x.channels} channels in {groups} groups")
            return call.op(_GROUPED, (x,), groups=groups)
    elif call.what in ("transpose", "permute", "swapaxes") and x.kind == _GROUPED:
        order = _sizes(node)
        if call.what == "permute" and tuple(order) != (0, 2, 1, 3, 4):
            call.refuse(f"permutes groups of channels as {order}", "exchange dimensions 1 and 2")
        if call.what != "permute" and sorted(order) != [1, 2]:
            call.refuse(f"exchanges dimensions {order}", "exchange dimensions 1 and 2")
        return call.op(_EXCHANGED, x.inputs, groups=x.fields["groups"])
    return None


def _sizes(node: fx.Node) -> list[Any]:
    """Numbers behind the first argument, as one list or one by one."""
    rest = list(node.args[1:])
    return list(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else rest
