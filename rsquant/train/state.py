"""The resume state: everything an interrupted run needs to go on exactly. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rsquant.config import RANGES
from rsquant.errors import CheckpointError, ModelError
from rsquant.models.description import layers, versions
from rsquant.models.layer_settings import check_layers, layers_of
from rsquant.models.state_dict import load_into, versions_of
from rsquant.models.tensor_file import read_tensors, write_tensors
from rsquant.nn.finite import first_bad
from rsquant.packed.fields import FieldError, Fields
from rsquant.runs import CONFIG
from rsquant.train.optimizer_state import expected, listed_slots, remembered, restore, slots_of


class Part(Protocol):
    """Something else that a run continues from: averages of weights, a scale of the loss."""

    def tensors(self) -> dict[str, Tensor]:
        """Its values, by name; the same names, shapes and dtypes throughout a run."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take values back; they have the names, shapes and dtypes of `tensors`."""


class TrainingState:
    """Everything besides the configuration that a run needs to go on exactly.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps done in the current epoch.
        data: numbers of images and names of classes; a run goes on with the same only.
        progress: what the current epoch has summed so far, and the best result; JSON values.
        parts: what else belongs to the state, by name (letters and "_").
    """

    FORMAT = "rsquant-training-state"
    VERSION = 1

    def __init__(self, model: nn.Module, alpha: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.alpha, self.optimizer = model, alpha, optimizer
        self.epoch = 0
        self.step = 0
        self.progress: dict[str, Any] = {}
        self.data: list[Any] = []
        self.parts: dict[str, Part] = {}

    def bad(self) -> str | None:
        """The first tensor of it that is not finite; see `first_bad`."""
        names = [*(name for name, _ in self.model.named_parameters()), "alpha"]
        moments = (
            (f"{slot} of {names[index]}", value)
            for slot, index, value in remembered(self.optimizer, self._parameters())
        )
        tensors = self.model.state_dict().items()
        own = [("alpha", self.alpha)]
        return first_bad(chain(tensors, own, moments, self._tensors_of_parts().items()))

    def save(self, path: Path) -> None:
        """Write it whole or not at all. The optimizer's tensors are stored in parameter order.

        Raises:
            ModelError: a tensor is not finite; an older state is kept.
        """
        if bad := self.bad():
            raise ModelError(f"{path}: not written, {bad}; start again with a lower `lr`")
        state = self.model.state_dict()
        tensors = {f"model.{k}": v for k, v in state.items()}
        tensors |= self._tensors_of_parts()
        tensors["alpha"] = self.alpha
        tensors["rng"] = torch.get_rng_state()
        device = self.alpha.device
        if device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(device)
        slots: dict[str, list[int]] = {slot: [] for slot in slots_of(self.optimizer)}
        for slot, index, value in remembered(self.optimizer, self._parameters()):
            tensors[f"{slot}.{index}"] = value
            slots[slot].append(index)
        metadata = {
            "format": self.FORMAT,
            "version": self.VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "progress": self.progress,
            "data": self.data,
            "versions": versions_of(state),
            "layers": layers_of(self.model),
            # So that a missing one is noticed: not every parameter has one.
            **slots,
        }
        write_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Go back to a saved state. Raises CheckpointError if it is not this network's."""
        tensors, metadata = read_tensors(path, self.FORMAT, self.VERSION)
        if metadata.get("data") != self.data:
            raise CheckpointError(
                f"{path}: the data set has changed since (other numbers of images or classes), so "
                "the run cannot continue as before; restore it, or start a new run"
            )
        try:
            progress = _progress(metadata, self.optimizer, len(self._parameters()))
        except FieldError as error:
            raise CheckpointError(f"{path}: is damaged: {error}; train again") from error
        weights = {
            k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")
        }
        if progress.layers is not None:  # states of before rsquant 0.2 do not say
            self._check_layers(path, progress.layers)
        load_into(self.model, weights, path, progress.versions)
        self._check(path, tensors, progress.slots)
        try:
            with torch.no_grad():
                self.alpha.copy_(tensors["alpha"])
            torch.set_rng_state(tensors["rng"])
            if "rng_cuda" in tensors and self.alpha.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng_cuda"], self.alpha.device)
            restore(self.optimizer, self._parameters(), tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: is damaged ({reason:.200}); train again") from error
        for name, part in self.parts.items():
            prefix = f"part.{name}."
            named = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            part.load(named)
        self.epoch, self.step, self.progress = progress.epoch, progress.step, progress.values
        if bad := self.bad():
            raise CheckpointError(f"{path}: {bad}; start a new run with a lower `lr` or a `warmup`")

    def _check_layers(self, path: Path, described: dict[str, dict[str, Any]]) -> None:
        """Raise CheckpointError for bits or a quantizer other than those it was trained with."""
        try:
            signed = check_layers(path, described, self.model)
        except CheckpointError as error:
            note = f"its {CONFIG} has changed since; restore it"
            raise CheckpointError(f"{error} ({note})") from error
        for quantizer, value in signed.items():
            quantizer.signed = value

    def _check(
        self, path: Path, tensors: Mapping[str, Tensor], slots: dict[str, tuple[int, ...]] | None
    ) -> None:
        """Raise CheckpointError unless all but the network's tensors are there and as they must."""
        moments = expected(self.optimizer, self._parameters())
        required = {"alpha": self.alpha, "rng": torch.get_rng_state(), **self._tensors_of_parts()}
        if slots is not None:  # states of before rsquant 0.2 do not say
            names = [f"{slot}.{index}" for slot, indices in slots.items() for index in indices]
            required |= {name: moments[name] for name in names}
        given = {k: v for k, v in tensors.items() if not k.startswith("model.")}
        optional = {} if slots is not None else moments
        for name in sorted(required.keys() - given.keys()):
            raise CheckpointError(f"{path}: is damaged: lacks {name}; train again")
        for name in sorted(given.keys() - required.keys() - optional.keys() - {"rng_cuda"}):
            raise CheckpointError(
                f"{path}: is damaged: has {name:.100}, which this run does not have; train again"
            )
        for name, tensor in given.items():
            own = (required | optional).get(name)
            if own is None:  # of a CUDA device, which says itself what it takes
                right = tensor.dtype == torch.uint8 and tensor.ndim == 1
            else:
                right = tensor.shape == own.shape and (
                    tensor.is_floating_point()
                    if own.is_floating_point()
                    else tensor.dtype == own.dtype
                )
            if not right:
                raise CheckpointError(
                    f"{path}: is damaged: {name} is {tensor.dtype} {tuple(tensor.shape)}; train "
                    "again"
                )

    def _tensors_of_parts(self) -> dict[str, Tensor]:
        return {
            f"part.{name}.{key}": tensor
            for name, part in self.parts.items()
            for key, tensor in part.tensors().items()
        }

    def _parameters(self) -> list[Tensor]:
        """In the order of the network, whatever groups the optimizer has; alpha last."""
        return [*self.model.parameters(), self.alpha]


def saved_bits(path: Path) -> int | None:
    """The bits of the phase in which a state was saved, see `bits_schedule`; None: there was none.

    Raises:
        CheckpointError: it cannot be read.
    """
    _, metadata = read_tensors(path, TrainingState.FORMAT, TrainingState.VERSION)
    progress = metadata.get("progress")
    bits = progress.get("bits") if isinstance(progress, dict) else None
    return bits if isinstance(bits, int) else None


@dataclass(frozen=True)
class _Resumed:
    epoch: int
    step: int
    values: dict[str, Any]
    versions: dict[str, int] | None
    layers: dict[str, dict[str, Any]] | None
    slots: dict[str, tuple[int, ...]] | None


def _progress(
    metadata: dict[str, Any], optimizer: torch.optim.Optimizer, parameters: int
) -> _Resumed:
    """How far a run was, from a state's metadata. Raises FieldError naming what is wrong."""
    fields = Fields(metadata, "its metadata")
    for name in ("format", "version", "data"):
        fields.take(name)
    slots = listed_slots(fields, optimizer, parameters)
    epoch = fields.integer("epoch", 0, int(RANGES["train.epochs"].high))
    step = fields.integer("step", 0, 2**53)
    read = versions(fields) if fields.has("versions") else None
    described = layers(fields) if fields.has("layers") else None
    given = Fields(fields.take("progress"), "progress")
    fields.finish()
    values: dict[str, Any] = {}
    if given.has("calibrated"):
        values["calibrated"] = given.integer("calibrated", 0, int(RANGES["train.calibration"].high))
    if given.has("bits"):
        values["bits"] = given.integer("bits", 1, 4)
    if given.has("best"):
        values["best"] = given.real("best", 0.0)
    for name in ("best_epoch", "reestimated"):
        if given.has(name):
            values[name] = given.integer(name, 0, epoch + 1)
    # Sums begin with an epoch and end with it; a step without them would give means of a part.
    if given.has("sums") != (step > 0):
        raise FieldError("progress: 'sums' go with a step above 0, and with nothing else")
    if step > 0:
        raw = given.take("sums")
        sums = Fields(raw, "progress.sums")
        values["sums"] = {
            name: sums.integer(name, 0, 2**53) if name == "images" else sums.real(name)
            for name in raw
        }
        if not {"images", "seconds"} <= raw.keys():
            raise FieldError("progress.sums: lacks 'images' or 'seconds'")
    given.finish()
    return _Resumed(epoch, step, values, read, described, slots)
