"""Whether a plan's steps and tensors agree, so that a program made of them cannot go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.packed.fields import FieldError
from rsquant.packed.integers import SUM_LIMIT
from rsquant.packed.ops.base import ValueSpec
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.plan import IMAGE_CHANNELS, INTEGERS, MAPS, Plan
from rsquant.packed.weight_levels import Digits

# Over all steps: tables grow with it, and it does not need a large file. A ResNet-101 has 60,000.
MAX_TOTAL_CHANNELS = 2**20


def check(plan: Plan, tensors: Mapping[str, NDArray[Any]]) -> Checker:
    """Check every step; what was found on the way.

    Args:
        tensors: by name; each must be asked for by a step.
    Raises:
        FieldError: naming the first step or tensor that does not fit.
    """
    checker = Checker(plan, tensors)
    total = 0
    names: set[str] = set()
    for index, step in enumerate(plan.steps):
        checker.where = f"step {index} ({step.name:.60})"
        if isinstance(step, LinearSpec) and index != len(plan.steps) - 1:
            raise checker.wrong("a linear step must be the last step")
        # Weights are known by it, to the runtime too.
        if step.name in names:
            raise checker.wrong("two steps have this name")
        names.add(step.name)
        checker.since(step.SINCE, f"'{step.OP}' exists")
        step.check(checker)
        total += checker.values[-1].channels
        if total > MAX_TOTAL_CHANNELS:
            raise checker.wrong(f"more than {MAX_TOTAL_CHANNELS} channels in all")
    _check_result(checker)
    if surplus := tensors.keys() - checker.used:
        raise FieldError(f"tensor '{min(surplus):.60}' belongs to no step")
    return checker


def _check_result(checker: Checker) -> None:
    """The last value must be logits."""
    plan, result = checker.plan, checker.values[-1]
    if not plan.gives_maps:
        return
    if plan.format_version < MAPS:
        raise checker.wrong(
            f"the last step must be a linear one before version {MAPS} of the format, and the file "
            f"has version {plan.format_version}"
        )
    if plan.cascade is not None:
        raise FieldError("cascade: is of logits of whole images, but these are maps")
    classes = plan.network.num_classes
    if (result.kind, result.channels) != ("float", classes):
        raise checker.wrong(
            f"the last value must be a float one of {classes} channels, the classes, is "
            f"{result.kind} of {result.channels}"
        )


class Checker:
    """What operations check themselves with; it knows the values written so far.

    Attributes:
        values: by number, the image first.
        digits, limits: by name of a convolution: see `weight_levels.digits` and `largest`.
        used: names of the tensors that were asked for.
        where: the step, for messages.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.plan = plan
        self.tensors = tensors
        self.digits: dict[str, Digits] = {}
        self.limits: dict[str, int] = {}
        self.used: set[str] = set()
        self.values = [ValueSpec("image", IMAGE_CHANNELS)]
        self.where = ""

    def read(self, value: int) -> ValueSpec:
        """A value that an earlier step wrote, or the image."""
        if value >= len(self.values):
            raise self.wrong(f"reads value {value} before it is written")
        return self.values[value]

    def read_map(self, value: int, *, bytes_too: bool = False) -> ValueSpec:
        """Codes or a float value, or bytes where the operation takes them."""
        source = self.read(value)
        if source.kind == "image":
            raise self.wrong("only a convolution can read the image")
        if source.kind == "bytes" and not bytes_too:
            raise self.wrong(f"needs codes or a float value, {value} is bytes")
        return source

    def read_float(self, value: int) -> ValueSpec:
        """A float value."""
        source = self.read_map(value, bytes_too=True)
        if source.kind != "float":
            raise self.wrong(f"needs a float value, {value} is {source.kind}")
        return source

    def write(self, value: int, what: ValueSpec) -> None:
        """Note the next value."""
        if value != len(self.values):
            raise self.wrong(f"writes value {value}, the next is {len(self.values)}")
        self.values.append(what)

    def norm(self, name: str | None, channels: int) -> None:
        """Check the table of a BatchNorm; None is no BatchNorm."""
        if name is None:
            return
        rows = len(self.plan.network.resolutions)
        table = self.floats(name, (4, rows, channels))
        if (table[3] < 0).any():
            raise self.wrong(f"'{name}' has a negative variance")

    def scales(self, name: str, channels: int, bias: bool) -> None:
        """Check the scale of a layer, and its bias, which must be there if `bias`."""
        if (self.floats(f"{name}.scale", (channels,)) < 0).any():
            raise self.wrong(f"'{name}.scale' has negative values")
        if bias or f"{name}.bias" in self.tensors:
            self.floats(f"{name}.bias", (channels,))

    def byte_scale(self, name: str) -> None:
        """Check the scale of bytes, a number per resolution."""
        self.integers()
        smallest = np.finfo(np.float32).tiny
        if (self.floats(name, (len(self.plan.network.resolutions),)) < smallest).any():
            raise self.wrong(f"'{name:.60}' has values that are not positive")

    def integers(self) -> None:
        """Refuse integer arithmetic in files of a version that does not have it."""
        self.since(INTEGERS, "integer arithmetic exists")

    def since(self, version: int, what: str) -> None:
        """Refuse in older files what the format has from a version on."""
        found = self.plan.format_version
        if found < version:
            raise self.wrong(
                f"{what} from version {version} of the format on, and the file has version {found}"
            )

    def exact(self, largest: int) -> None:
        """Refuse integer sums beyond what float32 holds exactly."""
        if largest > SUM_LIMIT:
            raise self.wrong(f"has sums of up to {largest}, beyond {SUM_LIMIT}")

    def floats(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A float32 tensor of this shape, all finite."""
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

    def wrong(self, what: str) -> FieldError:
        """The error of the step that is checked."""
        return FieldError(f"{self.where}: {what}")
