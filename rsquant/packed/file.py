"""A packed network on disk: opened, checked, still independent of the size of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsquant.errors import PackedFileError
from rsquant.packed import weight_levels
from rsquant.packed.check import check
from rsquant.packed.fields import FieldError
from rsquant.packed.format import Tensors, read_as
from rsquant.packed.ops.base import ValueSpec
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.plan import FORMAT, VERSION, Plan
from rsquant.packed.schema import from_json
from rsquant.packed.variants import narrowed, of_bits, variants_of, whole
from rsquant.settings import Variant


@dataclass(frozen=True)
class Packed:
    """A network whose plan and tensors were checked against each other.

    Attributes:
        path: where it came from, for messages: what is there may have changed.
        tensors: read-only; views of a copy of the file where it came from one.
        values: by number.
        weight_digits: by name of the convolution, the basis (O, K) int16 and the offset (O,) int8
            of its weight levels, see `weight_levels`.
        weight_sums: by name of the convolution, (O,) int64, the sum of its weight levels, where
            its input has negative levels or codes.
        weight_limits: by name of the convolution, its largest weight level.
        settings: of a file of several widths or bits the network of each, the costliest first;
            this one is the costliest's. All of them say their bits.
        setting: of a network of such a file, which it is; None: of all channels.
        checksum: of the file it came from; 0: of one that was not read, and has no session.
    """

    path: Path
    plan: Plan
    tensors: Tensors
    values: tuple[ValueSpec, ...]
    weight_digits: Mapping[str, tuple[NDArray[np.int16], NDArray[np.int8]]]
    weight_sums: Mapping[str, NDArray[np.int64]]
    weight_limits: Mapping[str, int]
    settings: Mapping[Variant, Packed] = field(default_factory=dict)
    setting: Variant | None = None
    checksum: int = 0

    def describe(self) -> str:
        """File, network, sizes and classes, for a repr."""
        network = self.plan.network
        sizes = ", ".join(map(str, network.resolutions))
        pairs = dict.fromkeys(v.bits for v in self.variants if v.bits)
        bits = " ".join(f"W{wbits}A{abits}" for wbits, abits in pairs)
        shares = dict.fromkeys(v.width for v in self.variants)
        shown = ", ".join(f"{width:g}" for width in shares)
        widths = f" (width{'s' * (len(shares) > 1)} {shown})" if shown != "1" else ""
        return (
            f"'{self.path}': {network.arch} {bits}{widths} at {sizes} pixels, "
            f"{network.num_classes} classes"
        )

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Widths and bits in the file, the costliest first."""
        network = self.plan.network
        own = self.setting or Variant(bits=(network.wbits, network.abits))
        return tuple(self.settings) or (own,)


def open_packed(path: str | Path) -> Packed:
    """Read a packed file and check all of it. The file may change afterwards.

    Raises:
        PackedFileError: missing, altered, truncated, newer than this rsquant, or inconsistent.
    """
    path = Path(path)

    def network(tensors: Tensors, metadata: Any, checksum: int) -> Packed:
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise PackedFileError(f"{path}: is not a {FORMAT} file; write one with 'rsquant pack'")
        version = metadata.get("version")
        if type(version) is int and version > VERSION:
            raise PackedFileError(
                f"{path}: is {FORMAT} version {version}, this rsquant reads versions up to "
                f"{VERSION}; update rsquant"
            )
        return opened(path, tensors, metadata, checksum)

    return read_as(path, network)


def opened(path: Path, tensors: Tensors, metadata: Any, checksum: int = 0) -> Packed:
    """The network of a file's tensors and metadata. Raises PackedFileError: inconsistent."""
    try:
        plan = from_json(metadata)
        if not plan.bits and not plan.widths:
            return replace(checked(path, plan, tensors), checksum=checksum)
        return checked_settings(path, plan, tensors, checksum)
    except FieldError as error:
        raise PackedFileError(
            f"{path}: is not a valid packed network: {error}; pack the network again"
        ) from error


class Settings(Mapping[Variant, Packed]):
    """The networks of a file of several widths or bits, the costliest first.

    Each is made and checked anew when it is asked for: together they may be as many times as large
    as the file as it has settings.
    """

    def __init__(self, path: Path, plan: Plan, tensors: Tensors, checksum: int) -> None:
        self._path, self._plan, self._tensors = path, plan, tensors
        self._checksum = checksum
        self._known = variants_of(plan)

    def __getitem__(self, variant: Variant) -> Packed:
        """Raises FieldError: tensors do not agree with the plan."""
        if variant not in self._known or variant.bits is None:
            raise KeyError(variant)
        own, every = of_bits(self._plan, self._tensors, variant.bits)
        part = whole(own, every)
        if variant.width != 1:
            spec = next(one for one in self._plan.widths if one.width == variant.width)
            part = narrowed(*part, spec, every)
        setting = variant if variant.width != 1 else None
        return replace(checked(self._path, *part), setting=setting, checksum=self._checksum)

    def __iter__(self) -> Iterator[Variant]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def checked_settings(path: Path, plan: Plan, tensors: Tensors, checksum: int) -> Packed:
    """The network of the costliest of several settings, with all in its `settings`."""
    settings = Settings(path, plan, tensors, checksum)
    # A narrower network is made of one of all channels, which comes before it.
    costliest, *others = settings
    packed = settings[costliest]
    for variant in others:
        settings[variant]
    return replace(packed, settings=settings)


def checked(path: Path, plan: Plan, tensors: Tensors) -> Packed:
    """A plan and its tensors, checked. Raises FieldError if they do not agree."""
    checker = check(plan, tensors)
    values = tuple(checker.values)
    weight_digits, sums = {}, {}
    for step in plan.steps:
        if not isinstance(step, ConvSpec) or step.name not in checker.digits:
            continue
        source = values[step.input]
        basis, offset = checker.digits[step.name]
        weight_digits[step.name] = basis.astype(np.int16), offset.astype(np.int8)
        zero = source.zero
        if source.quantizer is not None:
            zero = plan.quantizers[source.quantizer].zero
        if zero:
            planes = tensors[f"{step.name}.weight"]
            sums[step.name] = weight_levels.sums(basis, offset, planes, step.taps)
    return Packed(path, plan, tensors, values, weight_digits, sums, checker.limits)
