"""Whether a plan's steps and tensors agree, so that a program made of them cannot go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsquant.packed import weight_levels
from rsquant.packed.fields import FieldError
from rsquant.packed.plan import (
    ANY_PADDING,
    FLOAT_INPUTS,
    MAX_BITS,
    MAX_LEVEL,
    OFFSETS,
    AvgPoolSpec,
    ConvSpec,
    EpilogueSpec,
    LinearSpec,
    MapSpec,
    MaxPoolSpec,
    Plan,
    StepSpec,
)
from rsquant.padding import is_pair

IMAGE_CHANNELS = 4
IMAGE_LIMIT = 255
# Largest weight of the first convolution.
IMAGE_WEIGHT = 2**15 - 1
# Over all steps: tables grow with it, and it does not need a large file. A ResNet-101 has 60,000.
MAX_TOTAL_CHANNELS = 2**20
_INT32 = 2**31 - 1
WORD = 64


@dataclass(frozen=True)
class ValueSpec:
    """A value before its size is known; `quantizer` is that of codes."""

    kind: Literal["image", "codes", "float"]
    channels: int
    quantizer: int | None = None


def plane_bytes(taps: int) -> int:
    """Bytes of one output channel in one bit plane: whole words of 64 bits."""
    return 8 * -(-taps // WORD)


def check(plan: Plan, tensors: Mapping[str, NDArray[Any]]) -> tuple[ValueSpec, ...]:
    """The values of a plan, in the order of their numbers.

    Args:
        tensors: by name; each must be asked for by a step.
    Raises:
        FieldError: naming the first step or tensor that does not fit.
    """
    return _Checker(plan, tensors).values()


class _Checker:
    """Walks the steps in order, and knows the values written so far."""

    def __init__(self, plan: Plan, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.plan = plan
        self.tensors = tensors
        self.used: set[str] = set()
        self.known = [ValueSpec("image", IMAGE_CHANNELS)]
        self.where = ""

    def values(self) -> tuple[ValueSpec, ...]:
        total = 0
        names: set[str] = set()
        for index, step in enumerate(self.plan.steps):
            self.where = f"step {index} ({step.name:.60})"
            if isinstance(step, LinearSpec) != (index == len(self.plan.steps) - 1):
                raise self.wrong("a linear step must be the last step, and only it")
            # Weights are known by it, to the runtime too.
            if step.name in names:
                raise self.wrong("two steps have this name")
            names.add(step.name)
            self.step(step)
            total += self.known[-1].channels
            if total > MAX_TOTAL_CHANNELS:
                raise self.wrong(f"more than {MAX_TOTAL_CHANNELS} channels in all")
        if surplus := self.tensors.keys() - self.used:
            raise FieldError(f"tensor '{min(surplus):.60}' belongs to no step")
        return tuple(self.known)

    def step(self, step: StepSpec) -> None:
        source = self.read(step.input)
        if isinstance(step, (ConvSpec, MaxPoolSpec)):
            self.padding(step)
        if isinstance(step, ConvSpec):
            self.conv(step, source)
        elif source.kind == "image":
            raise self.wrong("only a convolution can read the image")
        elif isinstance(step, MapSpec):
            self.epilogue(step.epilogue, source.channels)
        elif isinstance(step, MaxPoolSpec):
            self.write(step.output, source)
        elif source.kind != "float":
            raise self.wrong(f"needs a float value, {step.input} is {source.kind}")
        elif isinstance(step, AvgPoolSpec):
            self.norm(step.norm, source.channels)
            self.write(step.output, source)
        else:
            self.linear(step, source)

    def padding(self, step: ConvSpec | MaxPoolSpec) -> None:
        version = self.plan.format_version
        if version < ANY_PADDING and not is_pair(step.padding):
            raise self.wrong(
                f"'padding' must be a pair before version {ANY_PADDING} of the format, and the "
                f"file has version {version}"
            )

    def conv(self, step: ConvSpec, source: ValueSpec) -> None:
        version = self.plan.format_version
        if source.kind == "float" and version < FLOAT_INPUTS:
            raise self.wrong(
                f"needs the image or codes, {step.input} is float, which convolutions read from "
                f"version {FLOAT_INPUTS} of the format on, and the file has version {version}"
            )
        if source.channels != step.in_channels:
            raise self.wrong(f"reads {source.channels} channels, in_channels={step.in_channels}")
        if source.kind == "image":
            if step.groups != 1:
                raise self.wrong("a convolution of the image has one group")
            shape = (step.out_channels, *step.kernel, IMAGE_CHANNELS)
            self.image_weight(f"{step.name}.weight", shape)
        else:
            limit = self.weight_levels(step)
            # Fixed-point inputs of fewer than 8 bits would not be worth it.
            inputs = MAX_LEVEL
            if source.quantizer is not None:
                inputs = self.plan.quantizers[source.quantizer].limit
            largest = limit * inputs
            if step.taps * largest > _INT32:
                raise self.wrong(f"{step.taps} products of up to {largest} overflow 32 bits")
        self.scales(step.name, step.out_channels, bias=source.kind == "image")
        self.epilogue(step.epilogue, step.out_channels)

    def weight_levels(self, step: ConvSpec) -> int:
        """Check bit planes, bases and offsets; the largest level."""
        name = f"{step.name}.basis"
        bits = self.basis(step, name).shape[1]
        if bits > MAX_BITS:
            raise self.wrong(f"'{name}' has {bits} bits, at most {MAX_BITS} are known")
        limit = weight_levels.largest(*weight_levels.digits(step.name, self.tensors))
        if limit > MAX_LEVEL:
            raise self.wrong(f"'{name}' has levels up to {limit}, at most {MAX_LEVEL} fit")
        name = f"{step.name}.weight"
        row = plane_bytes(step.taps)
        planes = self.tensor(name, np.uint8, (bits, step.out_channels, row))
        # The padding bits: the bytes after the last product's, and the upper bits of its own.
        whole, rest = divmod(step.taps, 8)
        spare = planes[:, :, whole + (rest > 0) :].any()
        if spare or (rest and (planes[:, :, whole] >> rest).any()):
            raise self.wrong(f"'{name}' has padding bits that are not 0")
        return limit

    def basis(self, step: ConvSpec, name: str) -> NDArray[Any]:
        """The basis, int8, or beside an offset int16."""
        offset, version = f"{step.name}.offset", self.plan.format_version
        found = self.tensors.get(name)
        if offset not in self.tensors:
            if found is not None and found.dtype == np.int16:
                raise self.wrong(f"'{name:.60}' of int16 needs a tensor '{offset:.60}'")
            return self.tensor(name, np.int8, (step.out_channels, None))
        if version < OFFSETS:
            raise self.wrong(
                f"'{offset:.60}' is known from version {OFFSETS} of the format on, and the file "
                f"has version {version}"
            )
        self.tensor(offset, np.int8, (step.out_channels,))
        return self.tensor(name, np.int16, (step.out_channels, None))

    def linear(self, step: LinearSpec, source: ValueSpec) -> None:
        if source.channels != step.in_features:
            raise self.wrong(f"reads {source.channels} channels, in_features={step.in_features}")
        classes = self.plan.network.num_classes
        if step.out_features != classes:
            raise self.wrong(f"gives {step.out_features} logits for {classes} classes")
        self.int8(f"{step.name}.weight", (step.out_features, step.in_features))
        self.scales(step.name, step.out_features, bias=True)
        self.write(step.output, ValueSpec("float", step.out_features))

    def epilogue(self, epilogue: EpilogueSpec, channels: int) -> None:
        self.norm(epilogue.norm, channels)
        self.norm(epilogue.codes_norm, channels)
        if epilogue.add is not None:
            other = self.read(epilogue.add)
            if (other.kind, other.channels) != ("float", channels):
                raise self.wrong(f"adds {other.kind} of {other.channels} to {channels} channels")
        if epilogue.keep is not None:
            self.write(epilogue.keep, ValueSpec("float", channels))
        if epilogue.codes is not None and epilogue.quantizer is not None:
            if epilogue.quantizer >= len(self.plan.quantizers):
                raise self.wrong(f"there is no quantizer {epilogue.quantizer}")
            self.write(epilogue.codes, ValueSpec("codes", channels, epilogue.quantizer))

    def norm(self, name: str | None, channels: int) -> None:
        if name is None:
            return
        rows = len(self.plan.network.resolutions)
        table = self.floats(name, (4, rows, channels))
        if (table[3] < 0).any():
            raise self.wrong(f"'{name}' has a negative variance")

    def scales(self, name: str, channels: int, bias: bool) -> None:
        if (self.floats(f"{name}.scale", (channels,)) < 0).any():
            raise self.wrong(f"'{name}.scale' has negative values")
        if bias or f"{name}.bias" in self.tensors:
            self.floats(f"{name}.bias", (channels,))

    def int8(self, name: str, shape: tuple[int, ...]) -> None:
        if self.tensor(name, np.int8, shape).min() < -MAX_LEVEL:
            raise self.wrong(f"'{name}' has values below -{MAX_LEVEL}")

    def image_weight(self, name: str, shape: tuple[int, ...]) -> None:
        weight = self.tensor(name, np.int16, shape).astype(np.int64)
        if weight.min() < -IMAGE_WEIGHT:
            raise self.wrong(f"'{name}' has values below -{IMAGE_WEIGHT}")
        largest = int(np.abs(weight).sum((1, 2, 3)).max()) * IMAGE_LIMIT
        if largest > _INT32:
            raise self.wrong(f"'{name}' has sums of up to {largest}, which overflow 32 bits")

    def floats(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        found = self.tensor(name, np.float32, shape)
        if not np.isfinite(found).all():
            raise self.wrong(f"'{name}' has values that are not finite")
        return found

    def tensor(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """A tensor of this type and shape; None stands for any size."""
        found = self.tensors.get(name)
        if found is None:
            raise self.wrong(f"there is no tensor '{name:.60}'")
        fits = len(found.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, found.shape, strict=True)
        )
        if found.dtype != dtype or not fits:
            required = f"{np.dtype(dtype)} {shape}".replace("None", "any")
            raise self.wrong(f"'{name:.60}' must be {required}, is {found.dtype} {found.shape}")
        self.used.add(name)
        return found

    def read(self, value: int) -> ValueSpec:
        if value >= len(self.known):
            raise self.wrong(f"reads value {value} before it is written")
        return self.known[value]

    def write(self, value: int, what: ValueSpec) -> None:
        if value != len(self.known):
            raise self.wrong(f"writes value {value}, the next is {len(self.known)}")
        self.known.append(what)

    def wrong(self, what: str) -> FieldError:
        return FieldError(f"{self.where}: {what}")
