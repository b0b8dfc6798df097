"""Elementwise functions of packed networks, as tables.

exp and erf are not the same bits in numpy, C++ and Triton; a table is. The tables' own values are
those of the system's mathematical library, one number at a time, as the C library computes them:
numpy's vectors of tanh and others differ from one processor to the next. A function of float values
is a parabola in each of 1,280 intervals between -20 s and 20 s, through its values at both ends and
in the middle, and a straight line, its asymptote, beyond:

    i = min(max(floor((x - low) / step), 0), 1279);  d = x - (low + i step)
    y = value[i] + d (slope[i] + d curve[i])          float32, one rounding per operation

s is 1 or, where a parameter stretches the function, the next power of two; so all of i and
low + i step are exact, and where a function has a corner two intervals meet. The parabola's error
is h**3 |f'''| / 125, h = step, 2.4e-7 at |f'''| = 1; with float32's roundings the largest is
5e-7 + 2e-7 |y|, the first part times s and the size of `alpha`, where these are above 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Parameters = tuple[float, ...]

INTERVALS = 1280
# Beyond 20 every function here is its asymptote, to 4e-8.
_REACH = 20.0

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Function:
    """A function of one number.

    Attributes:
        of: float64 arrays and the parameters to its values.
        left, right: the slope of its asymptote at -inf and at +inf.
        limits: the range of each parameter, in the order of the file.
        stretch: how much wider than 1 it is in x.
    """

    of: Callable[..., Float64Array]
    left: Callable[..., float]
    right: Callable[..., float]
    limits: tuple[tuple[float, float], ...] = ()
    stretch: Callable[..., float] = lambda *_: 1.0


def _constant(value: float) -> Callable[..., float]:
    return lambda *_: value


def _each(of: Callable[[float], float], x: Float64Array) -> Float64Array:
    """A function of the system's mathematical library, of each number."""
    return np.array([of(v) for v in x.ravel().tolist()]).reshape(x.shape)


def _sigmoid(x: Float64Array) -> Float64Array:
    return 0.5 * (1.0 + _each(math.tanh, 0.5 * x))


def _softplus(x: Float64Array, beta: float = 1.0) -> Float64Array:
    y = beta * x
    rest = _each(math.log1p, _each(math.exp, -np.abs(y)))
    return (np.maximum(y, 0.0) + rest) / beta


def _elu(x: Float64Array, alpha: float = 1.0) -> Float64Array:
    return np.where(x > 0, x, alpha * _each(math.expm1, np.minimum(x, 0.0)))


def _celu(x: Float64Array, alpha: float) -> Float64Array:
    return np.where(x > 0, x, alpha * _each(math.expm1, np.minimum(x, 0.0) / alpha))


def _normal(x: Float64Array) -> Float64Array:
    """The share of a normal distribution below x."""
    return 0.5 * _each(math.erfc, -x / math.sqrt(2.0))


def _gelu_tanh(x: Float64Array) -> Float64Array:
    near = np.clip(x, -1e3, 1e3)  # the cube must not overflow
    cube = near * near * near
    return 0.5 * x * (1.0 + _each(math.tanh, math.sqrt(2.0 / math.pi) * (near + 0.044715 * cube)))


# Slopes and widths that a network may have; far from where float32 ends.
_SIZE = 1024.0
_ANY = (-_SIZE, _SIZE)
_WIDTH = (1 / _SIZE, _SIZE)
_FLAT, _ONE = _constant(0.0), _constant(1.0)

FUNCTIONS: dict[str, Function] = {
    "abs": Function(np.abs, _constant(-1.0), _ONE),
    "celu": Function(
        _celu,
        _FLAT,
        _ONE,
        (_WIDTH,),
        lambda alpha: alpha,
    ),
    "elu": Function(_elu, _FLAT, _ONE, (_ANY,)),
    "gelu": Function(lambda x: x * _normal(x), _FLAT, _ONE),
    "gelu_tanh": Function(_gelu_tanh, _FLAT, _ONE),
    "hardsigmoid": Function(lambda x: np.clip(x + 3, 0, 6) / 6, _FLAT, _FLAT),
    "hardswish": Function(lambda x: x * (np.clip(x + 3, 0, 6) / 6), _FLAT, _ONE),
    "leaky_relu": Function(
        lambda x, slope: np.where(x > 0, x, slope * x), lambda slope: slope, _ONE, (_ANY,)
    ),
    "logsigmoid": Function(lambda x: -_softplus(-x), _ONE, _FLAT),
    "mish": Function(lambda x: x * _each(math.tanh, _softplus(x)), _FLAT, _ONE),
    "selu": Function(lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA), _FLAT, _constant(_SELU_SCALE)),
    "sigmoid": Function(_sigmoid, _FLAT, _FLAT),
    "silu": Function(lambda x: x * _sigmoid(x), _FLAT, _ONE),
    "softplus": Function(_softplus, _FLAT, _ONE, (_WIDTH,), lambda beta: 1 / beta),
    "tanh": Function(lambda x: _each(math.tanh, x), _FLAT, _FLAT),
}


@dataclass(frozen=True, eq=False)
class Table:
    """A function in intervals.

    Attributes:
        low, step: float32 numbers; `step` is a power of two.
        value, slope, curve: (INTERVALS,) float32.
    """

    low: float
    step: float
    value: Float32Array
    slope: Float32Array
    curve: Float32Array

    def __call__(self, x: Float32Array) -> Float32Array:
        """Its values, float32: the specification of every back end."""
        low, step = np.float32(self.low), np.float32(self.step)
        place = (x - low) * np.float32(1 / self.step)
        place = np.minimum(np.maximum(place, np.float32(0)), np.float32(INTERVALS - 1))
        i = place.astype(np.int32)
        d = x - (low + i.astype(np.float32) * step)
        y: Float32Array = self.value[i] + d * (self.slope[i] + d * self.curve[i])
        return y

    def largest(self, bound: float) -> float:
        """At least the largest size of its values where |x| <= bound."""
        knots = self.low + self.step * np.arange(INTERVALS + 1)
        x = np.append(knots[np.abs(knots) <= bound], (-bound, bound)).astype(np.float32)
        # Between two knots it can be larger by what a parabola rises, and by roundings.
        return 1.01 * float(np.abs(self(x).astype(np.float64)).max())


@cache
def table(name: str, parameters: Parameters = ()) -> Table:
    """The intervals of one of FUNCTIONS."""
    function = FUNCTIONS[name]
    stretch = 2.0 ** math.ceil(math.log2(function.stretch(*parameters)))
    low, step = -_REACH * stretch, 2 * _REACH * stretch / INTERVALS
    x = low + step * np.arange(INTERVALS)
    first, middle, last = (function.of(x + part, *parameters) for part in (0.0, 0.5 * step, step))
    slope = (4 * middle - 3 * first - last) / step
    curve = 2 * (first - 2 * middle + last) / step**2
    # The ends are straight lines through the next interval.
    slope[0], slope[-1] = function.left(*parameters), function.right(*parameters)
    curve[0] = curve[-1] = 0.0
    first[0] = last[0] - step * slope[0]
    return Table(low, step, *(part.astype(np.float32) for part in (first, slope, curve)))


def of_codes(name: str, parameters: Parameters, scale: float, zero: int) -> NDArray[Any]:
    """The function of every byte of a quantizer's codes: (256,) float32, exact to its rounding.

    f(scale (byte - zero)).
    """
    x = scale * (np.arange(256, dtype=np.float64) - zero)
    return FUNCTIONS[name].of(x, *parameters).astype(np.float32)
