"""An epilogue in integers: docs/integer.md has the arithmetic, `packed.integers` its operations.

Where a convolution ends in levels alone, its epilogue is an `Epilogue` with integer thresholds, as
all networks have. Where the result goes through a byte (for an addition, for several readers), and
of every map, it is a `ByteEpilogue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed import integers
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.ops.base import Float64Array, Values, ValueSpec
from rsquant.packed.ops.epilogue import Ending, EndingSpec, Epilogue, EpilogueSpec
from rsquant.packed.plan import QuantizerSpec

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker

# Zero points of bytes: nothing is negative, or half of all codes are.
ZEROS = (0, 128)
_TOP = integers.BYTE_TOP
# Twice a level is at most 254 in size; a threshold as large as this is never, or always, exceeded.
_BEYOND = 2**16
# Of thresholds halfway between levels, in float32: 254 x 2**-24, and what a scale of 2**-24 adds.
_ROUNDING = 1e-3
Int32Array = NDArray[np.int32]


@dataclass(frozen=True)
class IntegerEpilogueSpec(EndingSpec):
    """norm, byte, addition, ReLU, byte, norm, ReLU, levels; each may be missing.

    With a `scale`,

        code = limited(round(norm(x) / scale))        to bytes of zero point `branch_zero` or `zero`
        code = limited(code + code of `add`)          relu and clip, bytes of zero point `zero`
        codes: levels of codes_clip(codes_relu(codes_norm(scale * code)))

    and without one x becomes levels directly, of clip(relu(norm(x))).

    Attributes:
        branch_zero: zero point of the byte before the addition; None without one.
        scale, zero: of the bytes, see `ValueSpec`; None where there are none. What is added has
            the same scale.
    """

    branch_zero: int | None = None
    scale: str | None = None
    zero: int | None = None

    KEEPS = "bytes"

    @classmethod
    def read(cls, fields: Fields) -> IntegerEpilogueSpec:
        """From the fields of the operation it ends."""
        epilogue = cls(
            **cls.given(fields),
            branch_zero=read_zero(fields, "branch_zero"),
            scale=fields.text_or_none("scale"),
            zero=read_zero(fields, "zero"),
        )
        wrong = epilogue._inconsistency()
        if wrong:
            raise FieldError(f"{fields.where}: {wrong}")
        return epilogue

    def _inconsistency(self) -> str:
        """What of it contradicts itself; "" where nothing does."""
        behind = self.codes_norm is not None or self.codes_relu or self.codes_clip is not None
        rules = (
            (self.keep is None and self.codes is None, "writes neither 'bytes' nor 'codes'"),
            ((self.codes is None) != (self.quantizer is None), "'codes' and 'quantizer' differ"),
            ((self.scale is None) != (self.zero is None), "'scale' and 'zero' go together"),
            (self.scale is None and self.keep is not None, "'bytes' need a 'scale'"),
            (self.scale is None and self.add is not None, "'add' needs a 'scale'"),
            (self.scale is None and behind, "'codes_norm' and what follows it need a 'scale'"),
            (self.codes is None and behind, "'codes_norm' and what follows it need 'codes'"),
            ((self.add is None) != (self.branch_zero is None), "'add' and 'branch_zero' differ"),
        )
        return next((what for wrong, what in rules if wrong), "")

    def check(self, checker: Checker, channels: int) -> None:
        """Check norms, scale and the value added, and note what it writes."""
        checker.integers()
        checker.norm(self.norm, channels)
        checker.norm(self.codes_norm, channels)
        if self.scale is not None:
            checker.byte_scale(self.scale)
        other = self.check_added(checker, channels)
        if other is not None and other.scale != self.scale:
            raise checker.wrong(
                f"adds bytes of the scale '{other.scale:.60}' to ones of '{self.scale:.60}'"
            )
        if self.keep is not None and self.zero is not None:
            spec = ValueSpec("bytes", channels, scale=self.scale, zero=self.zero)
            checker.write(self.keep, spec)
        quantizer = self.check_codes(checker, channels)
        if quantizer is not None and bounds_of(quantizer) is None:
            raise checker.wrong(
                f"quantizer {self.quantizer} has thresholds that are not halfway between levels"
            )

    def build(
        self,
        builder: Builder,
        scale: Float64Array,
        shift: Float64Array,
        shape: Pair,
    ) -> Epilogue | ByteEpilogue:
        """Fold what follows n; write its values.

        Args:
            scale, shift: (O,), such that scale n + shift is the result before the norm.
        """
        scale, shift = builder.normed(self.norm, self.eps, scale, shift)
        if self.scale is None:
            return self._levels(builder, scale, shift, shape)
        unit = builder.byte_scale(self.scale)
        builder.exact_floats(scale, shift, unit)
        zero = self.zero or 0
        branch = zero if self.branch_zero is None else self.branch_zero
        factor, bias = integers.into_bytes(scale, shift, unit, branch > 0)
        add_zero = 0
        if self.add is not None:
            other = builder.values[self.add]
            if (other.height, other.width) != shape:
                raise builder.invalid(
                    f"adds maps of {other.height}x{other.width} and {shape[0]}x{shape[1]}"
                )
            add_zero = other.fill
        least = 0 if self.relu else -zero
        most = _TOP - zero
        if self.relu and self.clip is not None:
            most = min(most, integers.clipped_at(self.clip, unit))
        limits = (least, most) if self.add is None else (-branch, _TOP - branch)
        if self.keep is not None:
            builder.write(shape)
        thresholds, sign, levels = self._codes(builder, unit, len(scale))
        if self.codes is not None:
            builder.write(shape)
        return ByteEpilogue(
            factor=factor,
            bias=bias,
            low=limits[0],
            high=limits[1],
            add=self.add,
            add_zero=add_zero,
            least=least,
            most=most,
            zero=zero,
            keep=self.keep,
            codes=self.codes,
            thresholds=thresholds,
            sign=sign,
            levels=levels,
        )

    def build_map(
        self, builder: Builder, scale: Float64Array, zero: int, shape: Pair
    ) -> ByteEpilogue:
        """Of n = 64 (byte - zero), worth `scale` (O,) each.

        Where levels alone are written, each byte is what it was, and its code is compared.
        """
        if self.scale is not None:
            made = self.build(builder, scale, 0 * scale, shape)
            if not isinstance(made, ByteEpilogue):
                raise TypeError("an epilogue with a scale goes through bytes")
            return made
        scale, shift = builder.normed(self.norm, self.eps, scale, 0 * scale)
        thresholds, sign, levels = self._thresholds(builder, scale, shift, self.relu, self.clip)
        builder.write(shape)
        return ByteEpilogue(
            factor=np.full(len(scale), 1 / integers.BYTE_WEIGHT, np.float32),
            bias=np.zeros(len(scale), np.int32),
            low=-zero,
            high=_TOP - zero,
            add=None,
            add_zero=0,
            least=-zero,
            most=_TOP - zero,
            zero=zero,
            keep=None,
            codes=self.codes,
            thresholds=_of_codes(thresholds),
            sign=sign,
            levels=levels,
        )

    def _levels(
        self, builder: Builder, scale: Float64Array, shift: Float64Array, shape: Pair
    ) -> Epilogue:
        """Levels alone, of accumulators."""
        thresholds, sign, levels = self._thresholds(builder, scale, shift, self.relu, self.clip)
        builder.write(shape)
        ones = np.ones(len(scale), np.float32)
        return Epilogue(
            scale=ones,
            shift=0 * ones,
            add=None,
            relu=False,
            clip=np.inf,
            keep=None,
            codes=self.codes,
            integer=True,
            thresholds=thresholds,
            sign=sign,
            levels=levels,
        )

    def _thresholds(
        self,
        builder: Builder,
        slope: Float64Array,
        shift: Float64Array,
        relu: bool,
        clip: float | None,
    ) -> tuple[Int32Array, NDArray[np.int8], NDArray[np.uint8]]:
        """Thresholds and signs for n, and levels."""
        if self.quantizer is None:
            raise ValueError("an integer epilogue without bytes writes levels")
        quantizer = builder.packed.plan.quantizers[self.quantizer]
        clip = clip if relu else None
        thresholds, sign = level_thresholds(builder, slope, shift, quantizer, relu, clip)
        return thresholds, sign, quantizer.codes

    def _codes(
        self, builder: Builder, unit: float, channels: int
    ) -> tuple[Int32Array, NDArray[np.int8], NDArray[np.uint8]]:
        """Thresholds, signs and levels of the levels of a byte's code."""
        if self.quantizer is None:
            empty = np.zeros((0, channels), np.int32)
            return empty, np.ones(channels, np.int8), np.zeros(0, np.uint8)
        slope = np.full(channels, unit / integers.BYTE_WEIGHT)
        slope, shift = builder.normed(self.codes_norm, self.codes_eps, slope, np.zeros(channels))
        found, sign, levels = self._thresholds(
            builder, slope, shift, self.codes_relu, self.codes_clip
        )
        return _of_codes(found), sign, levels


@dataclass(frozen=True)
class ByteEpilogue(Ending):
    """What happens to an integer n (an accumulator, or 64 codes of a map) that becomes a byte.

        code = min(max(round(factor * float32(n + bias)), low), high)          `integers.to_codes`
        code = min(max(code + byte of `add` - add_zero, least), most)          where there is `add`
        keep:   code + zero
        codes:  levels[number of k with sign * code > threshold_k]

    Attributes:
        factor, bias: (O,) float32 and int32.
        low, high: what a code may be before the addition; without one, as least and most.
        add, keep, codes: values; see `IntegerEpilogueSpec`.
        thresholds: (L - 1, O) int32, -257 to 257; empty, as is `levels`, without codes.
        sign: (O,) int8, +1 or -1.
        levels: (L,) uint8, ascending.
    """

    factor: NDArray[np.float32]
    bias: Int32Array
    low: int
    high: int
    add: int | None
    add_zero: int
    least: int
    most: int
    zero: int
    keep: int | None
    codes: int | None
    thresholds: Int32Array
    sign: NDArray[np.int8]
    levels: NDArray[np.uint8]

    # Of an `Epilogue`: whether thresholds are compared with accumulators.
    integer = False

    def run(self, n: NDArray[Any], values: Values) -> None:
        """Append the values it writes."""
        code = integers.to_codes(n, self.factor, self.bias, self.low, self.high)
        if self.add is not None:
            other = values[self.add].astype(np.int32) - self.add_zero
            code = np.clip(code + other, self.least, self.most)
        if self.keep is not None:
            values.append((code + self.zero).astype(np.uint8))
        if self.codes is not None:
            values.append(reference.to_codes(code, self.thresholds, self.sign, self.levels))


AnyEpilogueSpec = EpilogueSpec | IntegerEpilogueSpec
AnyEpilogue = Epilogue | ByteEpilogue


def read_epilogue(fields: Fields) -> AnyEpilogueSpec:
    """Of integers where the step has 'bytes' instead of 'float'."""
    return (IntegerEpilogueSpec if fields.has("bytes") else EpilogueSpec).read(fields)


def bounds_of(quantizer: QuantizerSpec) -> NDArray[np.int64] | None:
    """(L - 1,): what twice a value in units of the scale is compared with, integers.

    Thresholds of its own may skip levels (see `packing.activations`); None where one is something
    else than halfway between two levels, or beyond all values.
    """
    if quantizer.own_thresholds is None:
        neighbours: NDArray[np.int64] = quantizer.levels[:-1] + quantizer.levels[1:]
        return neighbours
    doubled = np.array(quantizer.own_thresholds) / (quantizer.scale / 2)
    bounds = np.rint(np.clip(doubled, -_BEYOND, _BEYOND))
    inside = np.abs(doubled) < _BEYOND
    if (np.abs(doubled - bounds)[inside] > _ROUNDING).any():
        return None
    return bounds.astype(np.int64)


def level_thresholds(
    builder: Builder,
    slope: Float64Array,
    shift: Float64Array,
    quantizer: QuantizerSpec,
    relu: bool,
    clip: float | None,
) -> tuple[Int32Array, NDArray[np.int8]]:
    """For which n the value slope n + shift exceeds a quantizer's thresholds: `sign * n > t`.

    Returns:
        t: (L - 1, O) int32; sign: (O,) int8.
    """
    builder.exact_floats(slope, shift, quantizer.scale)
    factor, bias = integers.into_levels(slope, shift, quantizer.scale)
    bounds = bounds_of(quantizer)
    if bounds is None:
        raise builder.invalid("its quantizer has thresholds that are not halfway between levels")
    found, sign = integers.thresholds(factor, bias, bounds)
    found[bounds >= _BEYOND] = integers.SUM_LIMIT + 1
    found[bounds <= -_BEYOND] = -integers.SUM_LIMIT - 1
    if relu:  # nothing is negative
        found[bounds < 0] = -integers.SUM_LIMIT - 1
    if clip is not None:
        found[clip <= quantizer.scale / 2 * bounds] = integers.SUM_LIMIT + 1
    return found, sign


def _of_codes(thresholds: Int32Array) -> Int32Array:
    """64 code > t  is  code > floor(t / 64); beyond the codes there are it says always or never."""
    limit = _TOP + 2
    return np.clip(thresholds // integers.BYTE_WEIGHT, -limit, limit).astype(np.int32)


def read_zero(fields: Fields, name: str) -> int | None:
    """A zero point of bytes, or null."""
    value = fields.integer_or_none(name, 0, ZEROS[-1])
    if value is not None and value not in ZEROS:
        raise FieldError(f"{fields.where}: '{name}' must be 0 or 128, got {value}")
    return value
