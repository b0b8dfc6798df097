"""What an operation of a packed network is, to everything that is not the operation itself.

An operation is two dataclasses in one file of this folder. The `OpSpec` is what the file says,
before a size is known: its fields and their ranges, the tensors it needs, the values it reads and
writes. The `Step` is the same at one size: shaped and folded, nothing left to look up. It says what
it computes, slowly, in numpy (`run`, the specification), and how the back ends run it.

    class Negate(OpSpec):                    found by `registry`, because its file is here
        OP = "negate"

Lowering from torch (`TORCH`, `trace`) is described in `rsquant.packing.trace`; an operation names
modules and functions of torch by their full names, so that nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import Fields
from rsquant.padding import Pads

if TYPE_CHECKING:
    from rsquant.packed.build import Builder
    from rsquant.packed.check import Checker
    from rsquant.packed.program import Program

Float64Array = NDArray[np.float64]
Kind = Literal["image", "codes", "bytes", "float"]
Values = list[NDArray[Any]]


@dataclass(frozen=True)
class ValueSpec:
    """A value before its size is known.

    Attributes:
        quantizer: of codes.
        scale, zero: of bytes, value = scale * (byte - zero); `scale` names a tensor (S,).
    """

    kind: Kind
    channels: int
    quantizer: int | None = None
    scale: str | None = None
    zero: int = 0


class OpSpec(ABC):
    """An operation of a packed file, before a size is known: a frozen dataclass.

    Attributes:
        OP: its name in files.
        SINCE: the version of the format that has it.
        TORCH: full names of the modules and functions of torch, and ".name" of the methods of
            tensors, that `trace` turns into it.
        name: of its layer, or of the function in the traced network; no two steps have one name.
    """

    OP: ClassVar[str]
    SINCE: ClassVar[int] = 1
    TORCH: ClassVar[tuple[str, ...]] = ()
    name: str

    @classmethod
    @abstractmethod
    def read(cls, fields: Fields, name: str) -> Self:
        """The operation from a file's metadata.

        Raises:
            FieldError: naming the field that is missing or out of range.
        """

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON gives them back: lists, no tuples."""
        return {"op": self.OP, **as_json(self)}

    @property
    def needs(self) -> int:
        """The oldest version of the format that has all that this operation uses."""
        return self.SINCE

    @abstractmethod
    def check(self, checker: Checker) -> None:
        """Check tensors and inputs, and note the values it writes, in their order.

        Raises:
            FieldError: something does not fit.
        """

    @abstractmethod
    def build(self, builder: Builder) -> Step:
        """The operation at a size: shape, fold, and note the values it writes.

        Raises:
            ModelError: nothing is left of the map at this size.
            FieldError: values could overflow.
        """

    @classmethod
    def trace(cls, call: Any) -> Any:
        """Turn a call of one of TORCH into an operation of a traced network.

        Args:
            call: `rsquant.packing.call.Call`.
        Returns:
            `rsquant.packing.ops.Op`.
        """
        raise NotImplementedError(f"{cls.__name__} is made by packing itself")

    @classmethod
    def lower(cls, op: Any, to: Any) -> OpSpec:
        """The operation of a file for a traced one: float values in, one float value out.

        Args:
            op: `rsquant.packing.ops.Op`, whose `fields` are this dataclass's.
            to: `rsquant.packing.lower.Lowering`.
        """
        inputs = [to.float_of(source, op.name) for source in op.inputs]
        given: dict[str, Any] = {"name": to.name(op.name), "output": to.write_float(op)}
        given |= {"input": inputs[0]} if len(inputs) == 1 else {"inputs": tuple(inputs)}
        return cls(**given, **op.fields)

    @classmethod
    def takes_padding(cls, op: Any, zeros: Pads | str, filler: float, positive: bool) -> bool:
        """Whether a traced operation can pad by itself what is padded in front of it.

        Args:
            op: `rsquant.packing.ops.Op`.
            zeros: pixels above, left, below and right, or a rule of `padding`.
            filler: their value.
            positive: no value beside them is negative.
        """
        return False

    @classmethod
    def reads_size(cls, op: Any, source: Any) -> bool:
        """Whether a traced operation needs only height and width of one of its inputs."""
        return False


class GpuCall(NamedTuple):
    """A step's kernel on its buffers: what launches it, bytes of its weights and tables (of the
    values it reads and writes the caller knows), multiply-adds, and how it is cut up."""

    run: Callable[[], None]
    bytes: int = 0
    macs: int = 0
    tile: str = ""


class Step(ABC):
    """An operation at one size: a frozen dataclass."""

    name: str

    @property
    @abstractmethod
    def reads(self) -> tuple[int, ...]:
        """Numbers of the values it reads."""

    @property
    @abstractmethod
    def writes(self) -> tuple[int, ...]:
        """Numbers of the values it writes, ascending."""

    @property
    def in_place(self) -> tuple[int, int] | None:
        """Values (read, written) that may share memory: each element is read before it is written,
        by the same thread."""
        return None

    def madds(self, program: Program) -> int:
        """Multiply-adds for one image; only convolutions and linear layers count."""
        return 0

    @abstractmethod
    def run(self, program: Program, values: Values) -> None:
        """Compute it slowly, and append what it writes: (N, H, W, C), in the order of `writes`.

        A back end is right when its values equal these, bit for bit.
        """

    @abstractmethod
    def bind_cpu(self, to: Any) -> None:
        """Add it to a program of the compiled kernels.

        Args:
            to: `rsquant.runtime.cpu.steps.Steps`.
        """

    @abstractmethod
    def bind_gpu(self, to: Any) -> GpuCall:
        """Its Triton kernel on device buffers.

        Args:
            to: `rsquant.runtime.gpu.bind.Bound`.
        """


def as_json(value: Any) -> Any:
    """Dataclasses as objects and tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [as_json(v) for v in value] if isinstance(value, tuple) else value
