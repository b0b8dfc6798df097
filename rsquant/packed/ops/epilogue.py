"""What happens to a result before it is stored; part of the operations that have one.

A convolution's accumulators, and the input of an elementwise operation, all end here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsquant.kernels import reference
from rsquant.packed import fold
from rsquant.packed.fields import FieldError, Fields, Pair
from rsquant.packed.ops.base import Float64Array, OpSpec, Values, ValueSpec, as_json
from rsquant.packed.plan import LAST_VALUE, MAX_STEPS, QuantizerSpec

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker


@dataclass(frozen=True)
class EndingSpec:
    """The fields that all epilogues have.

    Attributes:
        norm, eps, relu, clip: what comes before a result is kept. `eps` is 0 without a norm.
        add: the value added.
        keep: the value written, floats or bytes; None where none is.
        codes: the value written, levels of `quantizer`; None where none is.
        codes_norm, codes_eps, codes_relu, codes_clip: what comes before they are quantized.
    """

    norm: str | None = None
    eps: float = 0.0
    add: int | None = None
    relu: bool = False
    clip: float | None = None
    keep: int | None = None
    codes: int | None = None
    codes_norm: str | None = None
    codes_eps: float = 0.0
    codes_relu: bool = False
    codes_clip: float | None = None
    quantizer: int | None = None

    # What is kept: the name of `keep` in a file, where Python's own words are taken.
    KEEPS: ClassVar[str]

    @classmethod
    def given(cls, fields: Fields) -> dict[str, Any]:
        """These fields, of the operation that the epilogue ends."""
        norm, codes_norm = fields.text_or_none("norm"), fields.text_or_none("codes_norm")
        return {
            "norm": norm,
            "eps": read_eps(fields, "eps", norm),
            "add": fields.integer_or_none("add", 1, LAST_VALUE),
            "relu": fields.flag("relu"),
            "clip": fields.real_or_none("clip", 0.0),
            "keep": fields.integer_or_none(cls.KEEPS, 1, LAST_VALUE),
            "codes": fields.integer_or_none("codes", 1, LAST_VALUE),
            "codes_norm": codes_norm,
            "codes_eps": read_eps(fields, "codes_eps", codes_norm),
            "codes_relu": fields.flag("codes_relu"),
            "codes_clip": fields.real_or_none("codes_clip", 0.0),
            "quantizer": fields.integer_or_none("quantizer", 0, MAX_STEPS),
        }

    def check_codes(self, checker: Checker, channels: int) -> QuantizerSpec | None:
        """Note the codes that it writes; their quantizer, None where it writes none."""
        if self.codes is None or self.quantizer is None:
            return None
        if self.quantizer >= len(checker.plan.quantizers):
            raise checker.wrong(f"there is no quantizer {self.quantizer}")
        checker.write(self.codes, ValueSpec("codes", channels, self.quantizer))
        return checker.plan.quantizers[self.quantizer]

    def check_added(self, checker: Checker, channels: int) -> ValueSpec | None:
        """The value added, which must be of the kind that is kept; None where none is."""
        if self.add is None:
            return None
        other = checker.read(self.add)
        if (other.kind, other.channels) != (self.KEEPS, channels):
            raise checker.wrong(f"adds {other.kind} of {other.channels} to {channels} channels")
        return other


@dataclass(frozen=True)
class EpilogueSpec(EndingSpec):
    """v = norm(x) + add; keep: clip(relu(v)); codes: quantize(codes_clip(codes_relu(codes_norm)))

    The codes are those of what `keep` would hold.
    """

    KEEPS = "float"

    @classmethod
    def read(cls, fields: Fields) -> EpilogueSpec:
        """From the fields of the operation it ends."""
        epilogue = cls(**cls.given(fields))
        if epilogue.keep is None and epilogue.codes is None:
            raise FieldError(f"{fields.where}: writes neither 'float' nor 'codes'")
        if (epilogue.codes is None) != (epilogue.quantizer is None):
            raise FieldError(f"{fields.where}: 'codes' and 'quantizer' go together")
        if epilogue.codes is None and epilogue.codes_norm is not None:
            raise FieldError(f"{fields.where}: 'codes_norm' needs 'codes'")
        return epilogue

    def check(self, checker: Checker, channels: int) -> None:
        """Check norms and the value added, and note what it writes."""
        checker.norm(self.norm, channels)
        checker.norm(self.codes_norm, channels)
        self.check_added(checker, channels)
        if self.keep is not None:
            checker.write(self.keep, ValueSpec("float", channels))
        self.check_codes(checker, channels)

    def build(
        self,
        builder: Builder,
        scale: Float64Array,
        shift: Float64Array,
        reach: Float64Array,
        usual: Float64Array,
        shape: Pair,
        *,
        integers: bool,
    ) -> Epilogue:
        """Fold what follows x; write its values.

        Args:
            scale, shift: (O,), such that scale x + shift is the result before the norm.
            reach, usual: (O,), the largest size of x that is possible, and that is to be expected.
            integers: x is an accumulator, so integer thresholds may be used.
        """
        scale, shift = builder.normed(self.norm, self.eps, scale, shift)
        bound = float((np.abs(scale) * reach + np.abs(shift)).max())
        expected = 0.0
        if self.keep is not None:  # else nothing asks for it
            expected = builder.usual(self.norm, np.abs(scale) * usual + np.abs(shift))
        if self.add is not None:
            other = builder.values[self.add]
            if (other.height, other.width) != shape:
                raise builder.invalid(
                    f"adds maps of {other.height}x{other.width} and {shape[0]}x{shape[1]}"
                )
            bound += builder.bounds[self.add]
            expected += builder.ranges[self.add]
        builder.finite(bound)
        integer = integers and self.add is None and self.keep is None
        if self.keep is not None:
            clip = self.clip if self.relu else None
            builder.write(shape, clipped(bound, clip), clipped(expected, clip))
        thresholds, sign, levels = self._codes(builder, scale, shift, integer)
        if self.codes is not None:
            builder.write(shape)
        return Epilogue(
            scale=scale.astype(np.float32),
            shift=shift.astype(np.float32),
            add=self.add,
            relu=self.relu,
            clip=np.inf if self.clip is None else self.clip,
            keep=self.keep,
            codes=self.codes,
            integer=integer,
            thresholds=thresholds,
            sign=sign,
            levels=levels,
        )

    def _codes(
        self, builder: Builder, scale: Float64Array, shift: Float64Array, integer: bool
    ) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int8], NDArray[np.uint8]]:
        """Thresholds, signs and levels of the codes of scale x + shift (+ add)."""
        channels = len(scale)
        if self.quantizer is None:
            empty = np.zeros((0, channels), np.float32)
            return empty, np.ones(channels, np.int8), np.zeros(0, np.uint8)
        quantizer = builder.packed.plan.quantizers[self.quantizer]
        moved = fold.of_quantizer(quantizer)
        moved = fold.before_clip(moved, self.codes_relu, self.codes_clip)
        if self.codes_norm is not None:
            a, b = builder.normed(self.codes_norm, self.codes_eps, np.ones(1), np.zeros(1))
            moved = fold.before_affine(moved, a, b)
        moved = fold.before_clip(moved, self.relu, self.clip)
        if integer:
            moved = fold.before_affine(moved, scale, shift)
        thresholds: NDArray[Any] = (
            fold.to_integers(moved[0]) if integer else fold.to_float32(moved[0])
        )
        sign = moved[1].astype(np.int8)
        if thresholds.shape[1] != channels:  # one for all, until an affine map is passed
            thresholds, sign = np.repeat(thresholds, channels, 1), np.repeat(sign, channels)
        return thresholds, sign, quantizer.codes


class Ending:
    """What all epilogues of steps have.

    Attributes:
        add: the value added, or None.
        keep, codes: the values written, or None.
    """

    add: int | None
    keep: int | None
    codes: int | None

    @property
    def reads(self) -> tuple[int, ...]:
        return () if self.add is None else (self.add,)

    @property
    def writes(self) -> tuple[int, ...]:
        return tuple(value for value in (self.keep, self.codes) if value is not None)

    @property
    def in_place(self) -> tuple[int, int] | None:
        """A residual sum may take the place of the value it adds to."""
        return None if self.keep is None or self.add is None else (self.add, self.keep)


@dataclass(frozen=True)
class Epilogue(Ending):
    """What happens to a result x (an accumulator, or the input of a map) before it is stored.

        v = scale * x + shift;  v = v + add;
        keep:  min(max(v, 0) if relu, clip)
        codes: levels[number of k with sign * u > thresholds[k]], u = x if `integer`, else v

    All float32, one rounding per operation. `u` is taken before relu and clip, which the
    thresholds hold already.

    Attributes:
        scale, shift: (O,) float32.
        add: a float value of the result's shape, or None.
        clip: inf where there is none.
        keep, codes: the values written; at least one is not None.
        integer: thresholds are (L - 1, O) int32 for the accumulator; else float32 for v.
        sign: (O,) int8, +1 or -1.
        levels: (L,) uint8, ascending; empty (as are thresholds and sign) without codes.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    add: int | None
    relu: bool
    clip: float
    keep: int | None
    codes: int | None
    integer: bool
    thresholds: NDArray[np.int32] | NDArray[np.float32]
    sign: NDArray[np.int8]
    levels: NDArray[np.uint8]

    def run(self, x: NDArray[Any], values: Values) -> None:
        """Append the values it writes."""
        v = reference.affine(x, self.scale, self.shift)
        if self.add is not None:
            v = v + values[self.add]
        if self.keep is not None:
            values.append(reference.clamp(v, self.relu, self.clip))
        if self.codes is not None:
            compared = x if self.integer else v
            values.append(reference.to_codes(compared, self.thresholds, self.sign, self.levels))


def json_with_epilogue(spec: OpSpec, keeps: str) -> dict[str, Any]:
    """An operation's fields and those of its `epilogue` in one object; `keeps`: of its spec."""
    fields = as_json(spec)
    epilogue = fields.pop("epilogue")
    epilogue[keeps] = epilogue.pop("keep")
    return {"op": spec.OP, **fields, **epilogue}


def read_eps(fields: Fields, name: str, norm: str | None) -> float:
    """Of a norm; without one it says nothing."""
    return fields.real(name, 0.0, positive=norm is not None)


def clipped(bound: float, clip: float | None) -> float:
    """The largest size of a value that `clip` limits from above, where it is not negative."""
    return bound if clip is None else min(bound, clip)
