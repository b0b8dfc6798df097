"""Which networks of torchvision and timm `bench/packable.py` tries, and what kind each one is.

torchvision: every classification network. timm: of every family, which is a file of
timm/models, the two smallest convolutional networks by parameters, of different names where there
are such (`mixnet_s` beside `efficientnet_lite0`). Networks are made on the meta device: nothing
is computed and nothing downloaded.

A network is convolutional if

- it has BatchNorm2d layers, more of them than of other norms,
- Conv2d layers have more than half of its weights, the classifier's and the norms' left out,
- it computes no attention: no product of two values, as `q @ k` is.

timm's own networks for tests (`test_*`) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CLASSES = 10
CONVOLUTIONAL = "convolutional"
NO_BATCHNORM = "no BatchNorm2d"
OTHER_NORMS = "more other norms than BatchNorm2d"
OTHER_LAYERS = "most weights outside of Conv2d"
ATTENTION = "attention"
UNKNOWN = "does not run on the meta device"

PER_FAMILY = 2
# What goes through two processors in minutes.
MOST_PARAMETERS = 60e6
LARGEST_IMAGE = 300


@dataclass(frozen=True)
class Network:
    """A network that a library makes.

    Attributes:
        library: torchvision or timm.
        family: the file it is made in.
        kind: CONVOLUTIONAL, or why it is not.
        parameters: with CLASSES classes.
        size: side of the images it is made for, in pixels.
        fixed: it takes no other size.
    """

    library: str
    family: str
    name: str
    kind: str
    parameters: int
    size: int
    fixed: bool

    @property
    def too_large(self) -> bool:
        return self.parameters > MOST_PARAMETERS or (self.fixed and self.size > LARGEST_IMAGE)


def make(library: str, name: str) -> nn.Module:
    """The network with random weights and CLASSES classes."""
    network: nn.Module
    if library == "timm":
        import timm

        network = timm.create_model(name, pretrained=False, num_classes=CLASSES)
        return network
    more = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **more)
    return network


def torchvision_names() -> Iterator[tuple[str, str]]:
    """Family and name of each of torchvision's classification networks."""
    for name in torchvision.models.list_models(module=torchvision.models):
        yield torchvision.models.get_model_builder(name).__module__.rpartition(".")[2], name


def timm_families() -> Iterator[tuple[str, list[str]]]:
    """Families of timm and the names of their networks."""
    import timm

    for family in timm.list_modules():
        names = [n for n in timm.list_models(module=family) if not n.startswith("test_")]
        if names:
            yield family, names


def sample(members: list[Network]) -> list[Network]:
    """The smallest convolutional networks of a family, of different names where there are such."""
    able = [m for m in members if m.kind == CONVOLUTIONAL]
    able.sort(key=lambda m: (m.parameters, m.name))
    able = [m for m in able if not m.too_large] or able[:1]
    chosen: list[Network] = []
    for other_name in (True, False):
        for member in able:
            stems = {_stem(m.name) for m in chosen}
            fits = member not in chosen and not (other_name and _stem(member.name) in stems)
            if fits and len(chosen) < PER_FAMILY:
                chosen.append(member)
    return chosen


def _stem(name: str) -> str:
    """efficientnet of tf_efficientnet_b0: networks of TensorFlow differ by their paddings alone."""
    match = re.match(r"[a-z_]*[a-z]", name.removeprefix("tf_"))
    return match.group(0) if match else name


def look(library: str, family: str, name: str) -> Network:
    """Make a network without memory, and see what it is."""
    try:
        with torch.device("meta"):
            network = make(library, name).eval()
    except NotImplementedError:  # it computes with its initial weights
        network = make(library, name).to("meta").eval()
    settings: dict[str, Any] = getattr(network, "pretrained_cfg", {}) or {}
    size = int(settings.get("input_size", (3, 224, 224))[-1])
    if name == "inception_v3" and library == "torchvision":
        size = 299
    fixed = bool(settings.get("fixed_input_size", False))
    parameters = sum(p.numel() for p in network.parameters())
    return Network(library, family, name, _kind(network, size), parameters, size, fixed)


def _kind(network: nn.Module, size: int) -> str:
    modules = list(network.modules())
    batchnorms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    own = [m for m in modules if any(True for _ in m.parameters(recurse=False))]
    others = [m for m in own if "Norm" in type(m).__name__ and m not in batchnorms]
    if not batchnorms:
        return NO_BATCHNORM
    if len(others) >= len(batchnorms):
        return OTHER_NORMS
    heads = [m for m in modules if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    outside = {p for m in (*heads, *batchnorms, *others) for p in m.parameters()}
    counted = sum(p.numel() for p in network.parameters() if p not in outside)
    convolved = sum(m.weight.numel() for m in modules if isinstance(m, nn.Conv2d))
    if 2 * convolved <= counted:
        return OTHER_LAYERS
    products = _Products(network)
    try:
        with torch.no_grad(), products:
            network(torch.empty(1, 3, size, size, device="meta"))
    except Exception:  # whatever a network does with a value it does not have
        return UNKNOWN
    return ATTENTION if products.seen else CONVOLUTIONAL


class _Products(TorchDispatchMode):
    """Sees matrix products of two values, neither of which is a parameter."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.weights = {_storage(p) for p in network.parameters()}
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if "scaled_dot_product" in name or name in ("bmm", "baddbmm", "mm"):
            factors = [x for x in args if isinstance(x, Tensor)][-2:]
            self.seen |= not self.weights & {_storage(x) for x in factors}
        return func(*args, **(kwargs or {}))


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
