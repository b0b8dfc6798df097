"""RefineNet: a class for each pixel, from the maps of all four stages of a ResNet.

The deepest map is refined and enlarged to the next one's size, with which it is fused, and so on;
the logits have a quarter of the image's sides. A refinement is, for a map x:

    residual conv unit:        x + conv(relu(conv(relu(x))))
    fusion:                    relu(of the sum of both maps, each behind a convolution)
    chained residual pooling:  x + p_1 + .. + p_4, p_i = conv(maxpool5x5(p_(i-1))), p_0 = x

As published, no layer of the decoder has a BatchNorm, and all its convolutions are 3x3. With
`norm` each of them but the head has one in place of its bias, so that private BatchNorms are
everywhere and the inputs of quantizers keep their scale. The light-weight variant has 1x1
convolutions except for the head, and no residual conv units.

Left out is the dropout (0.5) that implementations have before the decoder and the head. Layer
names of the backbone equal torchvision's, so its weights load by name.

Source: Lin et al. (arXiv 1611.06612), sections 3.1 to 3.3, with four stages of pooling as in its
released networks; light-weight: Nekrasov et al. (arXiv 1810.03272).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from rsquant.models.resnet import LAYERS, ResNet

# Multiples of the first stage's channels (64): the deepest level's, and the others'.
_DEEPEST, _OTHERS = 8, 4
_POOLINGS, _UNITS_BEFORE, _UNITS_AFTER = 4, 2, 3
# refinenet_resnet101, refinenet_bn_resnet50, refinenet_lw_resnet18, refinenet_lw_bn_resnet18.
_NAME = re.compile(r"refinenet_(?P<light>lw_)?(?P<norm>bn_)?(?P<backbone>resnet\d+)")


@dataclass(frozen=True)
class Variant:
    """What the name of a RefineNet says.

    Attributes:
        backbone: a key of `resnet.LAYERS`.
        light: the light-weight decoder.
        norm: BatchNorms in the decoder.
    """

    backbone: str
    light: bool
    norm: bool


def variant(arch: str) -> Variant | None:
    """What a network's name says; None: it is no RefineNet of a known backbone."""
    match = _NAME.fullmatch(arch)
    if match is None or match["backbone"] not in LAYERS:
        return None
    return Variant(match["backbone"], bool(match["light"]), bool(match["norm"]))


def names() -> tuple[str, ...]:
    """Names of all RefineNets."""
    prefixes = ("", "bn_", "lw_", "lw_bn_")
    return tuple(f"refinenet_{prefix}{backbone}" for prefix in prefixes for backbone in LAYERS)


class RefineNet(nn.Module):
    """(N, 3, H, W) float32 -> logits (N, classes, H / 4, W / 4), sides rounded up.

    Args:
        which: backbone and decoder.
        num_classes: logits of each pixel.
        width: channels of the backbone's first stage; the decoder has 4 times as many, its deepest
            level 8 times. 64 is published.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    maxpool: nn.MaxPool2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, which: Variant, num_classes: int, width: int = 64) -> None:
        super().__init__()
        backbone = ResNet(which.backbone, 1, width, "imagenet")
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(backbone, name))
        expansion = LAYERS[which.backbone][0].expansion
        others = _OTHERS * width
        levels = []
        for stage in (4, 3, 2, 1):
            channels = width * 2 ** (stage - 1) * expansion
            own = _DEEPEST * width if stage == 4 else others
            levels.append(_Level(channels, own, others, stage == 4, stage == 1, which))
        self.levels = nn.ModuleList(levels)
        self.head = nn.Conv2d(others, num_classes, 3, padding=1)
        _initialise(self.levels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        refined: Tensor | None = None
        for level, own in zip(self.levels, reversed(maps), strict=True):
            refined = level(own, refined)
        logits: Tensor = self.head(refined)
        return logits


class _Level(nn.Module):
    """One refinement: a map of the backbone and the deeper, refined one, to a map of its size.

    Args:
        in_channels: of the backbone's map.
        channels: inside.
        out_channels: of the result, where a convolution gives it.
        deepest: there is no deeper map, and so no fusion.
        last: the result goes to the head as it is.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        deepest: bool,
        last: bool,
        which: Variant,
    ) -> None:
        super().__init__()
        light, norm = which.light, which.norm
        kernel = 1 if light else 3
        before = () if light else (_Unit(channels, norm) for _ in range(_UNITS_BEFORE))
        after = () if light else (_Unit(channels, norm) for _ in range(_UNITS_AFTER))
        self.reduce = _conv(in_channels, channels, kernel, norm)
        self.before = nn.Sequential(*before)
        self.fuse = nn.Identity() if deepest else _conv(channels, channels, kernel, norm)
        self.relu = nn.ReLU()
        self.pool = _ChainedPooling(channels, kernel, norm)
        self.after = nn.Sequential(*after)
        self.out = nn.Identity() if last else _conv(channels, out_channels, kernel, norm)

    def forward(self, x: Tensor, deeper: Tensor | None) -> Tensor:
        x = self.fuse(self.before(self.reduce(x)))
        if deeper is not None:
            size = x.shape[-2:]
            x = x + functional.interpolate(deeper, size, mode="bilinear", align_corners=True)
        refined: Tensor = self.out(self.after(self.pool(self.relu(x))))
        return refined


class _Unit(nn.Module):
    """x + conv(relu(conv(relu(x)))). As published, the first convolution alone has a bias."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv1 = _conv(channels, channels, 3, norm, bias=True)
        self.conv2 = _conv(channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv2(self.relu2(self.conv1(self.relu1(x))))
        return x + branch


class _ChainedPooling(nn.Module):
    """x + p_1 + .. + p_4, each the convolution of the last one's maxima over 5x5 pixels."""

    def __init__(self, channels: int, kernel: int, norm: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, 1, 2)
        convs = (_conv(channels, channels, kernel, norm) for _ in range(_POOLINGS))
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x
        for conv in self.convs:
            pooled = conv(self.pool(pooled))
            x = x + pooled
        return x


def _conv(
    in_channels: int, out_channels: int, kernel: int, norm: bool, bias: bool = False
) -> nn.Sequential:
    """A convolution of the decoder that keeps the map's size, and its BatchNorm, if any."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias and not norm)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []))


def _initialise(decoder: nn.Module) -> None:
    """He fan-out initialisation; without BatchNorms, residual branches start with a tenth of it.

    Each branch of He's initialisation has its input's variance, and a level adds nine of them to
    its map: after four levels logits would start at thousands. With BatchNorms the scale of weights
    has no effect.
    """
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in decoder.modules():
        last: list[nn.Module] = []
        if isinstance(module, _Unit):
            last = [module.conv2]
        elif isinstance(module, _ChainedPooling):
            last = list(module.convs)
        for conv in last:
            layers = list(conv.children())
            if len(layers) == 1 and isinstance(layers[0], nn.Conv2d):
                layers[0].weight.data.mul_(0.1)
