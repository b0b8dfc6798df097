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

# Keys of torch's optimizers.
_MOMENTUM, _STEP = "momentum_buffer", "step"
_ADAM = (_STEP, "exp_avg", "exp_avg_sq")


def _name(index: int, key: str) -> str:
    """What a tensor of the optimizer is called in the file."""
    return f"momentum.{index}" if key == _MOMENTUM else f"optimizer.{index}.{key}"


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
        """The first parameter, buffer, alpha or momentum that is not finite; see `first_bad`."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        names[id(self.alpha)] = "alpha"
        momenta = (
            (f"{'momentum' if key == _MOMENTUM else key} of {names[id(p)]}", value)
            for p in self._parameters()
            for key, value in self.optimizer.state.get(p, {}).items()
        )
        tensors = self.model.state_dict().items()
        own = [("alpha", self.alpha)]
        return first_bad(chain(tensors, own, momenta, self._tensors_of_parts().items()))

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
        momentum = []
        for index, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[_name(index, key)] = value
                    momentum.append(index)
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
            "momentum": list(dict.fromkeys(momentum)),
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
            progress = _progress(metadata, len(self._parameters()))
        except FieldError as error:
            raise CheckpointError(f"{path}: is damaged: {error}; train again") from error
        weights = {
            k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")
        }
        if progress.layers is not None:  # states of before rsquant 0.2 do not say
            self._check_layers(path, progress.layers)
        load_into(self.model, weights, path, progress.versions)
        buffers = self._checked(path, tensors, progress.momentum)
        try:
            with torch.no_grad():
                self.alpha.copy_(tensors["alpha"])
            torch.set_rng_state(tensors["rng"])
            if "rng_cuda" in tensors and self.alpha.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng_cuda"], self.alpha.device)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: is damaged ({reason:.200}); train again") from error
        for (parameter, key), buffer in buffers.items():
            # Same strides as the parameter, or SGD rounds in another order.
            own = buffer.shape == parameter.shape and key != _STEP
            copy = torch.empty_like(parameter).copy_(buffer) if own else buffer.clone()
            self.optimizer.state[parameter][key] = copy
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

    def _checked(
        self, path: Path, tensors: Mapping[str, Tensor], momentum: tuple[int, ...] | None
    ) -> dict[tuple[Tensor, str], Tensor]:
        """The optimizer's tensors, once they, alpha and the states of random numbers are right.

        By parameter and the optimizer's key.
        """
        keys = _ADAM if isinstance(self.optimizer, torch.optim.Adam) else (_MOMENTUM,)
        places = {_name(i, k): (p, k) for i, p in enumerate(self._parameters()) for k in keys}
        buffers = {n: torch.zeros(()) if k == _STEP else p for n, (p, k) in places.items()}
        required = {"alpha": self.alpha, "rng": torch.get_rng_state(), **self._tensors_of_parts()}
        if momentum is not None:  # states of before rsquant 0.2 do not say
            required |= {n: buffers[n] for n in (_name(i, k) for i in momentum for k in keys)}
        given = {k: v for k, v in tensors.items() if not k.startswith("model.")}
        optional = {} if momentum is not None else buffers
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
        return {places[name]: tensor for name, tensor in given.items() if name in places}

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
    momentum: tuple[int, ...] | None


def _progress(metadata: dict[str, Any], parameters: int) -> _Resumed:
    """How far a run was, from a state's metadata. Raises FieldError naming what is wrong."""
    fields = Fields(metadata, "its metadata")
    for name in ("format", "version", "data"):
        fields.take(name)
    momentum = None
    if fields.has("momentum"):
        momentum = fields.integers("momentum", 0, parameters - 1, 0, parameters)
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
    if given.has("since_best"):
        values["since_best"] = given.integer("since_best", 0, int(RANGES["train.epochs"].high))
    if given.has("reestimated"):
        values["reestimated"] = given.integer("reestimated", 0, epoch)
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
    return _Resumed(epoch, step, values, read, described, momentum)
