"""What `bench/packable.py` does with each network, and what came of it.

A network gets random weights and statistics from random images. Stages:

- convert: to 2/2 on the coarse grid, at the first sizes at which it runs;
- train: bases fitted to images, one step at all sizes with MRED; the loss and every gradient are
  finite, every parameter has a gradient, and weights move;
- load: as the network of `arch` "torchvision:NAME" or "timm:NAME": saved as a checkpoint and read
  back, with the same logits;
- pack: packed and run on images at the smallest size, with torch's logits;
- codebook, int8: the ONNX forms at the smallest size, each with the parity that rsquant measures
  in onnxruntime before it keeps a file.

A stage that fails does not end the others; nothing follows a refusal by convert.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from packable_networks import CLASSES, Network, make
from torch import Tensor, nn
from torch.nn.functional import interpolate

import rsquant
from rsquant import runtime
from rsquant.config import TrainConfig
from rsquant.data.transforms import normalise
from rsquant.errors import ModelError, RsquantError
from rsquant.nn.reestimate import reestimate
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.train.step import Step

STAGES = ("convert", "train", "load", "pack", "codebook", "int8")
# Sides that are tried before the one that a network is made for.
SIDES = (64, 128)
IMAGES, RATE = 8, 0.01
# Both compute the same codes but for ties, since the image's convolution has 16 bits in the file.
# In a network of random weights one tie changes the logits. So the file may be twice as far off as
# the network's own logits are when noise of STIR (a pixel's step is 0.017) is added to the images.
NEAR = 0.02
STIR = 1e-3


class Wrong(Exception):
    """A stage that went through and gave something else than it should."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one network.

    Attributes:
        sizes: it was converted at, in pixels; empty where it was not.
        stages: by name of each stage that was tried, "" where it passed, else why not.
        distance: of the packed file's logits from torch's, see `apart`; None where nothing ran.
        seconds: of the whole.
    """

    library: str
    family: str
    name: str
    sizes: tuple[int, ...] = ()
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    distance: float | None = None
    seconds: float = 0.0

    def passes(self, stage: str) -> bool:
        return self.stages.get(stage) == ""

    @property
    def reasons(self) -> str:
        """Why stages failed, one sentence each."""
        return "; ".join(f"{stage}: {why}" for stage, why in self.stages.items() if why)

    def with_stage(self, stage: str, why: str) -> Row:
        return dataclasses.replace(self, stages={**self.stages, stage: why})


def examine(network: Network, tell: Callable[[Row], None]) -> None:
    """Take a network through all stages; `tell` is called after each."""
    torch.manual_seed(0)
    row = Row(network.library, network.family, network.name)
    models: list[SwitchableNetwork] = []
    row = row.with_stage("convert", _why_not(lambda: models.append(converted(network))))
    if not models:
        tell(row)
        return
    (model,) = models
    row = dataclasses.replace(row, sizes=model.resolutions)
    tell(row)
    distances: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = normalised(images(IMAGES, model.resolutions[-1]), model)
        stages: dict[str, Callable[[], object]] = {
            "train": lambda: train(model),
            "load": lambda: load(model, f"{network.library}:{network.name}", x, folder),
            "pack": lambda: distances.append(pack(model, folder)),
            "codebook": lambda: export(model, "codebook", x, folder),
            "int8": lambda: export(model, "int8", x, folder),
        }
        for stage, do in stages.items():
            row = row.with_stage(stage, _why_not(do))
            if stage == "pack" and distances:
                row = dataclasses.replace(row, distance=round(distances[0], 4))
            tell(row)


def _why_not(do: Callable[[], object]) -> str:
    """ "" where it works, else in one line why not; a refusal of rsquant's in its own words."""
    try:
        do()
    except (RsquantError, Wrong) as error:
        return " ".join(str(error).split())[:400]
    except Exception as error:  # a result, too
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def converted(network: Network) -> SwitchableNetwork:
    """The network at the first sizes at which it runs, in evaluation mode."""
    floats = make(network.library, network.name)
    tried = list(_sizes(network))
    for sizes in tried:
        try:
            give_statistics(floats, images(4, sizes[0]))
            return rsquant.convert(floats.eval(), 2, 2, sizes, grid="coarse").eval()
        except (ModelError, RuntimeError, ValueError, AssertionError):  # of theirs, too
            if sizes == tried[-1]:
                raise
    raise AssertionError("no sizes")


def _sizes(network: Network) -> Iterator[tuple[int, ...]]:
    for side in SIDES:
        if side < network.size and not network.fixed:
            yield (side, 3 * side // 4)
    yield (network.size,)


@torch.no_grad()
def give_statistics(network: nn.Module, pixels: Tensor) -> None:
    """BatchNorm statistics of a batch: with the initial ones, deep networks give zeros."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    network(normalise(pixels, ModelSpec.mean, ModelSpec.std))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def train(model: SwitchableNetwork) -> None:
    """Fit the bases, do one step, and take the statistics of the network that this gave."""
    pixels = [images(IMAGES, size) for size in model.resolutions]
    rsquant.calibrate(model, normalised(pixels[0], model))
    alpha = torch.ones(len(model.settings), requires_grad=True)
    optimizer = torch.optim.SGD([*model.parameters(), alpha], lr=RATE)
    step = Step(model.train(), alpha, optimizer, TrainConfig(), torch.device("cpu"))
    before = [p.detach().clone() for p in model.parameters()]
    try:
        figures = step(pixels, torch.arange(IMAGES) % CLASSES, RATE)
        parameters = dict(model.named_parameters())
        if not torch.isfinite(torch.as_tensor(figures["loss"])):
            raise Wrong(f"the loss is {float(figures['loss'])}")
        without = [n for n, p in parameters.items() if p.requires_grad and p.grad is None]
        if without:
            raise Wrong(f"no gradient reaches {_some(without)}")
        gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
        bad = [n for n, gradient in gradients.items() if not gradient.isfinite().all()]
        if bad:
            raise Wrong(f"the gradient is not finite in {_some(bad)}")
        if all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)):
            raise Wrong("no weight moves")
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.eval()
    reestimate(model, [[normalised(x, model) for x in pixels]])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def load(model: SwitchableNetwork, arch: str, x: Tensor, folder: Path) -> None:
    """Save it as the network that `arch` builds, read that, and compare the logits."""
    own = model.spec
    built = rsquant.create(arch, 2, 2, model.resolutions, CLASSES, grid="coarse")
    try:
        model.spec = built.spec
        rsquant.save(model, folder / "network.safetensors")
    finally:
        model.spec = own
    read = rsquant.load(folder / "network.safetensors")
    with torch.no_grad():
        if not torch.equal(read(x), model(x)):
            raise Wrong("the checkpoint's network has other logits")


def pack(model: SwitchableNetwork, folder: Path) -> float:
    """Pack and run; how far the logits are from torch's, see `apart`."""
    path = folder / "network.rsq"
    rsquant.pack(model, path)
    pixels = images(IMAGES, model.resolutions[-1])
    packed = torch.from_numpy(runtime.load(path, threads=1, tune=False)(pixels.numpy()))
    x = normalised(pixels, model)
    stir = STIR * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, stirred = model(x), model(x + stir)
    distance, own = apart(packed, wanted), apart(stirred, wanted)
    if distance > max(NEAR, 2 * own):
        raise Wrong(f"other logits, {distance:.3f} of the largest")
    return distance


def apart(logits: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest logit, of the median image."""
    return float(((logits - wanted).abs().amax(1) / wanted.abs().amax(1)).median())


def export(model: SwitchableNetwork, form: str, x: Tensor, folder: Path) -> None:
    rsquant.export_onnx(model, folder / f"{form}.onnx", x.shape[-1], images=x, form=form)


def images(count: int, side: int) -> Tensor:
    """(count, 3, side, side) uint8: random colours that change slowly, and noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    smooth = interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.randn(count, 3, side, side, generator=generator)
    return (128 + 60 * smooth + 10 * noise).clamp(0, 255).to(torch.uint8)


def normalised(pixels: Tensor, model: SwitchableNetwork) -> Tensor:
    return normalise(pixels, model.spec.mean, model.spec.std)
