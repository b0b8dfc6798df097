"""The resume state: everything an interrupted run needs to go on exactly. No pickle."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsquant.errors import CheckpointError, ModelError, RsquantError
from rsquant.models.checkpoint import load_into, read_tensors, versions_of, write_tensors
from rsquant.nn.finite import first_bad


class TrainingState:
    """Everything besides the configuration that a run needs to go on exactly.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps done in the current epoch.
        data: numbers of images and names of classes; a run goes on with the same only.
        progress: what the current epoch has summed so far, and the best result; JSON values.
    """

    FORMAT = "rsquant-training-state"
    VERSION = 1

    def __init__(self, model: nn.Module, alpha: Tensor, optimizer: torch.optim.SGD) -> None:
        self.model, self.alpha, self.optimizer = model, alpha, optimizer
        self.epoch = 0
        self.step = 0
        self.progress: dict[str, Any] = {}
        self.data: list[Any] = []

    def bad(self) -> str | None:
        """The first parameter, buffer, alpha or momentum that is not finite; see `first_bad`."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        names[id(self.alpha)] = "alpha"
        momenta = (
            (f"momentum of {names[id(p)]}", self.optimizer.state[p]["momentum_buffer"])
            for p in self._parameters()
            if self.optimizer.state[p].get("momentum_buffer") is not None
        )
        tensors = self.model.state_dict().items()
        return first_bad(chain(tensors, [("alpha", self.alpha)], momenta))

    def save(self, path: Path) -> None:
        """Write it whole or not at all. Momentum buffers are stored in parameter order.

        Raises:
            ModelError: a tensor is not finite; an older state is kept.
        """
        if bad := self.bad():
            raise ModelError(f"{path}: not written, {bad}; start again with a lower --lr")
        state = self.model.state_dict()
        tensors = {f"model.{k}": v for k, v in state.items()}
        tensors["alpha"] = self.alpha
        tensors["rng"] = torch.get_rng_state()
        device = self.alpha.device
        if device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(device)
        for index, parameter in enumerate(self._parameters()):
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{index}"] = buffer
        metadata = {
            "format": self.FORMAT,
            "version": self.VERSION,
            "epoch": self.epoch,
            "step": self.step,
            "progress": self.progress,
            "data": self.data,
            "versions": versions_of(state),
        }
        write_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Go back to a saved state. Raises CheckpointError if it is not this network's."""
        tensors, metadata = read_tensors(path, self.FORMAT, self.VERSION)
        if metadata.get("data") != self.data:
            raise CheckpointError(
                f"{path}: the data set has changed since (other numbers of images or classes), so "
                "the run cannot go on as it would have; restore it, or start a new run"
            )
        try:
            weights = {
                k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")
            }
            load_into(self.model, weights, path, metadata.get("versions"))
            with torch.no_grad():
                self.alpha.copy_(tensors["alpha"])
            torch.set_rng_state(tensors["rng"])
            if "rng_cuda" in tensors and self.alpha.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng_cuda"], self.alpha.device)
            for index, parameter in enumerate(self._parameters()):
                buffer = tensors.get(f"momentum.{index}")
                if buffer is not None:
                    # Same strides as the parameter, or SGD rounds in another order.
                    copy = torch.empty_like(parameter).copy_(buffer)
                    self.optimizer.state[parameter]["momentum_buffer"] = copy
            self.epoch, self.step = int(metadata["epoch"]), int(metadata["step"])
            self.progress = dict(metadata["progress"])
        except RsquantError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: is damaged ({error}); train again") from error
        if bad := self.bad():
            raise CheckpointError(f"{path}: {bad}; start a new run with a lower --lr or --warmup")

    def _parameters(self) -> list[Tensor]:
        """In the order of the network, whatever groups the optimizer has; alpha last."""
        return [*self.model.parameters(), self.alpha]
