"""The layers of the published RS-Nets networks and the names of their tensors in their files.

Every layer that runs at all sizes is inside a module that runs a list of images, and a BatchNorm
inside one that holds those of all sizes, so the file's names have parts that say nothing of the
layer: "module.layer1.0.conv1.module.weight" is layer1.0.conv1.weight, and
"layer1.0.bn1.bn_2.running_mean" belongs to the third size of layer1.0.bn1.

Source: RS-Nets (arXiv 2007.09558) and the structure of its published networks
(github.com/yikaiw/RS-Nets, models/imagenet): the ResNets are torchvision's, layer for layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rsquant.models.resnet import LAYERS

MOBILENET = "mobilenet_v2"
# Weights of the sizes in the ensemble, before their softmax.
ALPHA = "alpha"
# Where DataParallel and the modules that run a list of images keep what they wrap.
_WRAPPER = "module"
_NORM = re.compile(r"bn_(\d{1,3})")
# MobileNetV2 (arXiv 1801.04381), table 2: expansion and number of blocks.
_STAGES = ((1, 1), (6, 2), (6, 3), (6, 4), (6, 3), (6, 3), (6, 1))


@dataclass(frozen=True)
class Layer:
    """A layer of the published network.

    Attributes:
        name: in their files, without wrappers.
        kind: "conv", "norm" or "linear".
    """

    name: str
    kind: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """Last parts of the names of its tensors."""
        return {
            "conv": ("weight",),
            "norm": ("weight", "bias", "running_mean", "running_var"),
            "linear": ("weight", "bias"),
        }[self.kind]


def plain_name(name: str) -> tuple[str, int | None]:
    """A tensor's name without wrappers, and which size it belongs to, in the file's order.

    None stands for all sizes: "fc.module.bias" is ("fc.bias", None).
    """
    parts = [part for part in name.split(".") if part != _WRAPPER]
    if len(parts) > 2 and (match := _NORM.fullmatch(parts[-2])):
        return ".".join((*parts[:-2], parts[-1])), int(match[1])
    return ".".join(parts), None


def architectures() -> tuple[str, ...]:
    """Names of the networks that can be read."""
    return (*LAYERS, MOBILENET)


def layers(arch: str) -> list[Layer]:
    """The layers with tensors of a published network, in the order in which they are built."""
    return list(_mobilenet() if arch == MOBILENET else _resnet(arch))


def _resnet(arch: str) -> Iterator[Layer]:
    block, counts = LAYERS[arch]
    convolutions = 2 if block.expansion == 1 else 3
    yield Layer("conv1", "conv")
    yield Layer("bn1", "norm")
    for stage, count in enumerate(counts):
        for index in range(count):
            name = f"layer{stage + 1}.{index}"
            for i in range(1, convolutions + 1):
                yield Layer(f"{name}.conv{i}", "conv")
                yield Layer(f"{name}.bn{i}", "norm")
            # The first block of the first stage keeps its size, and its channels where there are
            # no bottlenecks.
            if index == 0 and (stage > 0 or block.expansion > 1):
                yield Layer(f"{name}.downsample.0", "conv")
                yield Layer(f"{name}.downsample.1", "norm")
    yield Layer("fc", "linear")


def _mobilenet() -> Iterator[Layer]:
    yield Layer("features.0.0", "conv")
    yield Layer("features.0.1", "norm")
    index = 0
    for expansion, blocks in _STAGES:
        for _ in range(blocks):
            index += 1
            # Expansion, depthwise, projection; a ReLU6 is third after the first two.
            for first in range(0, 6 if expansion == 1 else 9, 3):
                yield Layer(f"features.{index}.conv.{first}", "conv")
                yield Layer(f"features.{index}.conv.{first + 1}", "norm")
    yield Layer("conv.0", "conv")
    yield Layer("conv.1", "norm")
    yield Layer("classifier", "linear")
