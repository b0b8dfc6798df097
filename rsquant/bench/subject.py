"""The network that is timed: a checkpoint, or a fresh one that resembles a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from rsquant import runs
from rsquant.config import PAPER_RESOLUTIONS
from rsquant.errors import ConfigError
from rsquant.evaluate.images import validation_images
from rsquant.models import create
from rsquant.models.checkpoint import load
from rsquant.models.refinenet import variant
from rsquant.nn.calibrate import calibrate
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.quantizers import Quantizer
from rsquant.runs import Checkpoint
from rsquant.settings import Variant
from rsquant.tasks import DEFAULT

_IMAGES = 16
# Of a fresh segmentation network: the sizes of RS-Nets' appendix C, the classes of CamVid.
MAPS_RESOLUTIONS, MAPS_CLASSES = (352, 224, 96), 11


@dataclass(frozen=True)
class Subject:
    """The network that is timed, and what to tell the user about it.

    Attributes:
        network: of several widths and bits the costliest.
        others: of these the others, each as a network for itself.
    """

    network: SwitchableNetwork
    checkpoint: Checkpoint | None
    what: str
    others: Mapping[Variant, SwitchableNetwork] = field(default_factory=dict)

    @property
    def every(self) -> dict[Variant, SwitchableNetwork]:
        """The network and the others, the costliest first."""
        spec = self.network.spec
        return {Variant(bits=(spec.wbits, spec.abits)): self.network, **self.others}


def choose_subject(
    target: str | None = None,
    arch: str | None = None,
    wbits: int | None = None,
    abits: int | None = None,
    resolutions: Sequence[int] | None = None,
    width: int | None = None,
    like: bool = True,
) -> Subject:
    """A checkpoint, or a freshly initialised network where its form is given or no run exists.

    Latency and file sizes hardly depend on what was learned, so a fresh network stands for a
    trained one once it is `like_trained`.

    Args:
        like: make a fresh network so; what is timed may not depend on it.
    Raises:
        ConfigError: both a run and a form are given.
    """
    form = {"arch": arch, "wbits": wbits, "abits": abits, "width": width}
    given = [name for name, value in form.items() if value is not None]
    if target is not None and given:
        raise ConfigError(
            f"{target} determines the network; leave out `{'`, `'.join(given)}`, "
            "or leave out the run"
        )
    if target is not None or (not given and runs.newest(containing=runs.BEST) is not None):
        found = runs.resolve(target)
        whole = load(found.path).one_path_per_size()
        others = {one: at_variant(whole, one) for one in whole.variants[1:]}
        return Subject(at_variant(whole), found, f"checkpoint {found}", others)
    maps = arch is not None and variant(arch) is not None
    network = create(
        arch or "resnet18",
        2 if wbits is None else wbits,
        2 if abits is None else abits,
        tuple(resolutions or (MAPS_RESOLUTIONS if maps else PAPER_RESOLUTIONS)),
        MAPS_CLASSES if maps else 1000,
        width=64 if width is None else width,
        task="segmentation" if maps else DEFAULT,
    )
    if like:
        like_trained(network)
    network.eval()
    spec = network.spec
    why = "as asked" if given else "no run here"
    what = f"a freshly initialised {spec.arch} {spec.wbits}/{spec.abits} ({why})"
    return Subject(network, None, what)


@torch.no_grad()
def like_trained(network: SwitchableNetwork) -> None:
    """Give a fresh network what training gives it, in place: no two settings or levels alike.

    Fresh BatchNorms are equal at all sizes and would be stored once; fresh levels are equally far
    apart, for which the int8 form of an export needs fewer operations; a last BatchNorm at gamma 0
    would leave its branch empty. So statistics are those of generated images at each size, gamma
    and beta are drawn for each size, and bases are fitted and then moved by up to a fifth.
    """
    spec, generator = network.spec, torch.Generator().manual_seed(0)
    images = validation_images(spec, network.resolutions, _IMAGES).at
    norms = [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.copy_(0.9 + 0.2 * torch.rand(norm.weight.shape, generator=generator))
        norm.bias.copy_(0.1 * torch.randn(norm.bias.shape, generator=generator))
    if spec.low_bit_activations:
        calibrate(network, images[network.resolutions[0]])
    for module in network.modules():
        if isinstance(module, Quantizer):
            for tensor in module.state_dict().values():
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
    network.train()
    network.forward_all([images[size] for size in network.resolutions])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
