"""Sums, products and limits of traced values and constants, as operations that packing has.

A constant, one number or one per channel, makes a norm (`packing.affine`); two values make an
addition of the epilogue, or a step of their own where one of them serves all pixels or channels.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsquant.nn.tracer import argument
from rsquant.packing.affine import Affine, per_channel
from rsquant.packing.call import Call
from rsquant.packing.constants import Constants
from rsquant.packing.ops import Op, Pair
from rsquant.packing.shapes import shape_of

# What they are called: modules, functions, and names of methods.
_NAMES: dict[str, tuple[Any, ...]] = {
    "add": (operator.add, operator.iadd, torch.add, "add", "add_"),
    "sub": (
        *(operator.sub, operator.isub, torch.sub, torch.subtract),
        *("sub", "sub_", "subtract", "subtract_"),
    ),
    "rsub": (torch.rsub,),
    "mul": (
        *(operator.mul, operator.imul, torch.mul, torch.multiply),
        *("mul", "mul_", "multiply", "multiply_"),
    ),
    "div": (
        *(operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide),
        *("div", "div_", "divide", "divide_", "true_divide", "true_divide_"),
    ),
    "neg": (
        *(operator.neg, torch.neg, torch.neg_, torch.negative, torch.negative_),
        *("neg", "neg_", "negative", "negative_"),
    ),
    "square": (torch.square, torch.square_, "square", "square_"),
    "pow": (operator.pow, operator.ipow, torch.pow, "pow", "pow_"),
    "clamp": (
        *(torch.clamp, torch.clamp_, torch.clip, torch.clip_),
        *("clamp", "clamp_", "clip", "clip_"),
    ),
    "clamp_min": (torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_"),
    "clamp_max": (torch.clamp_max, torch.clamp_max_, "clamp_max", "clamp_max_"),
    "hardtanh": (nn.Hardtanh, functional.hardtanh, functional.hardtanh_),
    "prelu": (nn.PReLU, functional.prelu, torch.prelu, "prelu"),
}
_BY_TARGET = {target: kind for kind, targets in _NAMES.items() for target in targets}


def arithmetic_of(call: Call) -> str | None:
    """Which of the operations here a call is."""
    target = call.node.target if call.module is None else type(call.module)
    return _BY_TARGET.get(target)


class Arithmetic:
    """Makes the operations of one call.

    Args:
        constants: of the network.
    """

    def __init__(self, call: Call, constants: Constants) -> None:
        self.call, self.constants = call, constants

    def result(self, kind: str) -> Op | None:
        """The operation of the result; None where no value of the network is part of it.

        Raises:
            PackError: the runtime does not have it.
        """
        call = self.call
        for name in ("out", "rounding_mode"):
            if call.node.kwargs.get(name) is not None:
                call.refuse(f"has the argument {name}", f"leave {name} out")
        one, other = self._given(0, "input"), self._given(1, "other")
        if call.module is not None:
            one = call.node.args[0]
        if not call.is_value(one) and not call.is_value(other):
            return None
        made: Op = getattr(self, f"_{kind}")(one, other)
        return made

    def _mul(self, one: Any, other: Any) -> Op:
        if both := self._both(one, other):
            return self._pair("multiply", *both)
        value, constant = (one, other) if self.call.is_value(one) else (other, one)
        return self._affine(value, self._constant(constant), 0.0)

    def _div(self, one: Any, other: Any) -> Op:
        if not self.call.is_value(one) or self.call.is_value(other):
            self.call.refuse("divides by a value of the network", "divide by constants only")
        divisor = torch.as_tensor(self._constant(other), dtype=torch.float64)
        if not divisor.all():
            self.call.refuse("divides by 0")
        return self._affine(one, 1 / divisor, 0.0)

    def _add_or_sub(self, one: Any, other: Any, sign: float) -> Op:
        """one + sign other."""
        sign *= self.call.argument(2, "alpha", 1)
        if self._both(one, other):
            if sign != 1:
                term = self.call.before(self._affine(other, sign, 0.0))
                return self._pair("add", (one, self.call.value(one)), (other, term))
            return self._pair("add", *self._both(one, other))
        if self.call.is_value(one):
            shift = sign * torch.as_tensor(self._constant(other), dtype=torch.float64)
            return self._affine(one, 1.0, shift)
        return self._affine(other, sign, self._constant(one))

    def _add(self, one: Any, other: Any) -> Op:
        return self._add_or_sub(one, other, 1.0)

    def _sub(self, one: Any, other: Any) -> Op:
        return self._add_or_sub(one, other, -1.0)

    def _rsub(self, one: Any, other: Any) -> Op:
        return self._add_or_sub(other, one, -1.0)

    def _neg(self, one: Any, _: Any) -> Op:
        return self._affine(one, -1.0, 0.0)

    def _square(self, one: Any, _: Any) -> Op:
        value = self.call.value(one)
        return self._pair("multiply", (one, value), (one, value))

    def _pow(self, one: Any, _: Any) -> Op:
        exponent = self.call.argument(1, "exponent")
        if exponent != 2 or not self.call.is_value(one):
            self.call.refuse("is a power other than the square", "multiply, or replace it")
        return self._square(one, None)

    def _clamp(self, one: Any, _: Any) -> Op:
        return self._limited(one, self._given(1, "min"), self._given(2, "max"))

    def _clamp_min(self, one: Any, _: Any) -> Op:
        return self._limited(one, self._given(1, "min"), None)

    def _clamp_max(self, one: Any, _: Any) -> Op:
        return self._limited(one, None, self._given(1, "max"))

    def _hardtanh(self, one: Any, _: Any) -> Op:
        names = ("min_val", "max_val")
        low, high = (self.call.argument(i + 1, name, 2.0 * i - 1) for i, name in enumerate(names))
        return self._limited(one, low, high)

    def _limited(self, one: Any, low: Any, high: Any) -> Op:
        """min(max(x, low), high) by a ReLU: of x - low, or of high - x."""
        for limit in (low, high):
            if limit is not None and type(limit) not in (int, float):
                self.call.refuse("limits values by something that is not a number", "use numbers")
        if low is not None and high is not None and low > high:
            self.call.refuse(f"limits values from {low} to {high}", "give the lower limit first")
        if low is None and high is None:
            return self._affine(one, 1.0, 0.0)
        if low is None:
            rest = self._relu(self.call.before(self._affine(one, -1.0, high)))
            return self._affined(self.call.before(rest), -1.0, high)
        above = self.call.value(one)
        if low != 0:
            above = self.call.before(self._affine(one, 1.0, -low))
        limited = self._relu(above, None if high is None else float(high - low))
        return limited if low == 0 else self._affined(self.call.before(limited), 1.0, low)

    def _prelu(self, one: Any, _: Any) -> Op:
        """relu(x) - slope relu(-x)."""
        call, x = self.call, self.call.value(one)
        slope = getattr(call.module, "weight", None)
        if slope is None:
            slope = self._constant(self._given(1, "weight"))
        slopes = per_channel(slope.detach(), x.channels)
        if len(set(slopes.tolist())) == 1 and abs(float(slopes[0])) <= 1024:
            fields: dict[str, Any] = {"parameters": (float(slopes[0]),)}
            return call.op("function", (x,), pixels=x.pixels, function="leaky_relu", **fields)
        falling = self._relu(self.call.before(self._affined(x, -1.0, 0.0)))
        below = self.call.before(self._affined(self.call.before(falling), -slopes, 0.0))
        return self._pair("add", (one, self.call.before(self._relu(x))), (one, below))

    def _both(self, one: Any, other: Any) -> Any:
        """Two values with their nodes, or nothing."""
        if not self.call.is_value(one) or not self.call.is_value(other):
            return None
        return (one, self.call.value(one)), (other, self.call.value(other))

    def _pair(self, function: str, first: tuple[Any, Op], second: tuple[Any, Op]) -> Op:
        """Product or sum of two values."""
        (node, one), (other_node, other) = first, second
        shapes = shape_of(node), shape_of(other_node)
        known = shapes[0] is not None and shapes[1] is not None
        if known and len(shapes[0] or ()) != len(shapes[1] or ()):
            self.call.refuse(
                f"puts values of shapes {_shown(shapes[0])} and {_shown(shapes[1])} together",
                "give both as many dimensions",
            )
        alike = shapes[0] == shapes[1] if known else one.channels == other.channels
        channels = max(one.channels, other.channels)
        pixels = _pixels(one.pixels, other.pixels)
        if function == "add" and alike and one.channels == other.channels:
            return self.call.op("add", (one, other), channels=channels, pixels=pixels)
        return self.call.op(
            "binary", (one, other), channels=channels, pixels=pixels, function=function
        )

    def _affine(self, node: Any, scale: Any, shift: Any) -> Op:
        """scale x + shift of a node's value."""
        x, shape = self.call.value(node), shape_of(node)
        return self._affined(
            x, *(self._per_channel(constant, x, shape) for constant in (scale, shift))
        )

    def _affined(self, x: Op, scale: Any, shift: Any) -> Op:
        return affine(self.call, x, scale, shift)

    def _relu(self, x: Op, clip: float | None = None) -> Op:
        op = self.call.op("relu", (x,), pixels=x.pixels)
        op.clip = clip
        return op

    def _given(self, position: int, name: str) -> Any:
        """An argument of a function or method, which may be a constant of the network."""
        return argument(self.call.node, position, name, None)

    def _constant(self, argument: Any) -> Any:
        """A number or a tensor.

        Raises:
            PackError: it is neither.
        """
        value = self.constants.of(argument)
        if value is None:
            self.call.refuse("reads something that is not a value of the network")
        finite = torch.as_tensor(value, dtype=torch.float64).isfinite().all()
        if not finite:
            self.call.refuse("reads a constant that is not finite")
        return value

    def _per_channel(self, constant: Any, x: Op, shape: tuple[int, ...] | None) -> Tensor:
        """(C,) of a constant that is one number, or one for each channel."""
        given = torch.as_tensor(constant).detach().double()
        if given.numel() != 1:
            rank = 4 if shape is None else len(shape)
            wide = (1,) * (rank - given.dim()) + tuple(given.shape)
            if wide != (1, x.channels, *(1,) * (rank - 2)):
                self.call.refuse(
                    f"has a constant of shape {_shown(tuple(given.shape))}, not one number or one "
                    f"for each of {x.channels} channels",
                    "use one of shape (1, channels, 1, 1)",
                )
        return per_channel(given, x.channels)


def affine(call: Call, x: Op, scale: Any, shift: Any) -> Op:
    """scale x + shift, numbers or one for each channel."""
    op = call.op("norm", (x,), pixels=x.pixels)
    op.module = Affine(per_channel(scale, x.channels), per_channel(shift, x.channels))
    return op


def _pixels(one: Pair | None, other: Pair | None) -> Pair | None:
    """Of a result, where they are the same at every size."""
    if one == (1, 1):
        return other
    return one if other in (one, (1, 1)) else None


def _shown(shape: tuple[int, ...] | None) -> str:
    return "unknown" if shape is None else "x".join(map(str, shape))
