"""The training step of a low-bit network beside the same network with others, and without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from rsquant.bench.cuda.device import Device, cudnn_chooses
from rsquant.bench.cuda.inputs import random_pixels
from rsquant.bench.rows import TrainingRow
from rsquant.bench.subject import Subject
from rsquant.bench.timing import Setup, device_clock, host_clock, interleaved
from rsquant.data.transforms import normalise
from rsquant.errors import ConfigError
from rsquant.nn.integer.floats import without_rounding
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.packages import require
from rsquant.quantizers import ActivationQuantizer, make_activations, make_weights
from rsquant.tasks import by_name
from rsquant.train.losses import mred

FLOAT = "train_float"
BATCH = 64
BREVITAS = "brevitas"
PEERS = ("lsq", "uniform", BREVITAS)
# So small that both networks stay what they are while they are timed.
_RATE = 1e-5
_MOMENTUM = 0.9
_WEIGHT_DECAY = 1e-4
_IMAGE_SETS = 2


def bench_training(
    subject: Subject,
    device: Device,
    batch: int = BATCH,
    amp: bool = False,
    budget: float = 40.0,
    step: Callable[[str, float], None] = lambda *_: None,
    peers: Sequence[str] = (),
) -> list[TrainingRow]:
    """Time a step at all resolutions of the network: forward, MRED loss, backward, SGD.

    The float peer is the same architecture, pre-activation blocks included, with the same weights
    and every quantizer left out. Images are on the device and normalised beforehand. PyTorch runs
    all eagerly, channels_last, as `rsquant train` does.

    Args:
        peers: other quantizers in the same places, by name; "brevitas" is its own layers.
        amp: bfloat16 where autocast chooses it, as `rsquant train --amp`.
        budget: seconds of the timing.
        step: called with what is being done and the share of all done, 0 to 1.
    Returns:
        A row per network.
    """
    spec = subject.network.spec
    name = f"train_w{spec.wbits}a{spec.abits}"
    networks = {name: subject.network, FLOAT: without_quantizers(subject.network)}
    networks |= {f"train_{peer}": with_quantizer(subject.network, peer) for peer in peers}
    on_host = device.device.type == "cpu"
    resolutions = subject.network.resolutions
    images = [
        [normalise(pixels, spec.mean, spec.std) for pixels in sets]
        for sets in zip(
            *(random_pixels(device, batch, size, _IMAGE_SETS) for size in resolutions), strict=True
        )
    ]
    with cudnn_chooses():
        setups = {}
        for number, (engine, network) in enumerate(networks.items()):
            step(f"preparing {engine}", 0.2 * number / len(networks))
            training = _Training(network, device, images, amp)
            for _ in range(3):
                training.step()
            setups[engine] = Setup(training.step, training.use)
        peaks = {engine: device.peak_bytes(setup.call) for engine, setup in setups.items()}
        times = interleaved(
            setups,
            host_clock() if on_host else device_clock(device.seconds),
            budget,
            progress=lambda done: step("timing", 0.2 + 0.8 * done),
        )
    bits = (spec.wbits, spec.abits)
    return [
        TrainingRow(
            engine=engine,
            arch=spec.arch,
            wbits=32 if engine == FLOAT else bits[0],
            abits=32 if engine == FLOAT else bits[1],
            resolutions=tuple(resolutions),
            batch=batch,
            amp=amp,
            threads=torch.get_num_threads() if on_host else None,
            fastest_ms=round(found.fastest, 4),
            **found.columns(),
            ratio=round(found.median / times[FLOAT].median, 4),
            peak_bytes=peaks[engine],
        )
        for engine, found in times.items()
    ]


def without_quantizers(network: SwitchableNetwork) -> SwitchableNetwork:
    """A copy of a network that computes in float32 throughout; the given one is not changed."""
    twin = copy.deepcopy(network)
    if network.spec.integer:
        without_rounding(twin.body)
    for module in list(twin.modules()):
        if isinstance(module, QUANTIZED_LAYERS):
            module.weight_quantizer = module.input_quantizer = None
        for name, child in list(module.named_children()):
            if isinstance(child, ActivationQuantizer):
                setattr(module, name, nn.Identity())
    return twin


def with_quantizer(network: SwitchableNetwork, name: str) -> SwitchableNetwork:
    """A copy of a low-bit network with quantizers of another name, of the same bits, anew.

    Raises:
        ConfigError: of an integer network, whose layers round with their own; no such quantizer.
    """
    if network.spec.integer:
        raise ConfigError(
            f"peers: an integer network computes with its own quantizers, not with {name}; "
            "leave the peers out"
        )
    if name == BREVITAS:
        require("rsquant bench training", "train", "brevitas")
        from rsquant.bench.brevitas_network import on_brevitas

        return on_brevitas(network)
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        if isinstance(module, QUANTIZED_LAYERS) and module.weight_quantizer is not None:
            old = module.weight_quantizer
            module.weight_quantizer = make_weights(name, len(module.weight), old.bits, None)
            module.weight_quantizer.start_from(module.weight)
        for child_name, child in list(module.named_children()):
            if isinstance(child, ActivationQuantizer):
                new = make_activations(name, child.bits, child.signed, None)
                setattr(module, child_name, new)
    return twin


class _Training:
    """One network in training: `step` trains on the images that `use` chose."""

    def __init__(
        self,
        network: SwitchableNetwork,
        device: Device,
        images: Sequence[Sequence[Tensor]],
        amp: bool,
    ) -> None:
        self.network = network.to(device=device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.task = by_name(network.spec.task)
        self.images, self.amp = images, amp
        self.labels = self._labels(torch.Generator(device.device).manual_seed(0))
        self.chosen = images[0]
        self.alpha = torch.ones(len(images[0]), device=device.device, requires_grad=True)
        parameters = [*self.network.parameters(), self.alpha]
        self.optimizer = torch.optim.SGD(
            parameters, lr=_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
        )

    @torch.no_grad()
    def _labels(self, generator: torch.Generator) -> Tensor:
        """Of the task's kind, for the outputs of the first images."""
        outputs = [z.float() for z in self.network.forward_all(self.images[0])]
        return self.task.random_labels(self.task.together(outputs)[0], generator)

    def use(self, number: int) -> None:
        self.chosen = self.images[number % len(self.images)]

    def step(self) -> None:
        kind = self.alpha.device.type
        with torch.autocast(kind, torch.bfloat16) if self.amp else nullcontext():
            outputs = [z.float() for z in self.network.forward_all(self.chosen)]
        loss = mred(outputs, self.labels, self.alpha, task=self.task)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.optimizer.step()
