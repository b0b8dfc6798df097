"""Options of `rsquant train` that say what the network is: the section `model` of a run."""

from __future__ import annotations

import click

from rsquant import choices
from rsquant.cli.options import (
    ARCH,
    QUANTIZERS,
    TASKS,
    Assignment,
    Bits,
    Sizes,
    Widths,
    joined_sizes,
)

# Their names are keys of the configuration.
NETWORK: list[click.Parameter] = [
    click.Option(
        ["--arch"],
        type=ARCH,
        help=f"{', '.join(choices.ARCHITECTURES)}, torchvision:NAME or timm:NAME; of "
        "segmentation refinenet_resnet18, refinenet_lw_bn_resnet18 and their kin.",
    ),
    click.Option(
        ["--wbits"],
        type=int,
        help="Bits of weights: 1 to 4, or 32 for float.",
    ),
    click.Option(
        ["--abits"],
        type=int,
        help="Bits of activations: 1 to 4, or 32 for float.",
    ),
    click.Option(
        ["--bits"],
        type=Bits(),
        help="Several settings of bits over one set of weights: 4/4,2/2,1/2, weights / "
        "activations.",
    ),
    click.Option(
        ["--widths"],
        type=Widths(),
        help="Several settings of widths over one set of weights, of ResNets and MobileNetV2: "
        "1.0,0.75,0.5, shares of the channels.",
    ),
    click.Option(
        ["--resolutions", "--resolution"],
        type=Sizes(),
        multiple=True,
        callback=joined_sizes,
        help="Sizes to train, in pixels: 224,192,160,128,96.",
    ),
    click.Option(
        ["--individual"],
        type=int,
        help="Train for this size alone, with the stem and width of the switchable network of "
        "--resolutions.",
    ),
    click.Option(
        ["--width"],
        type=int,
        help="Channels of a ResNet's first stage (published: 64).",
    ),
    click.Option(
        ["--grid"],
        type=click.Choice(choices.GRIDS),
        help="Train with small integer levels: fine up to 127, coarse up to 14 or 15.",
    ),
    click.Option(
        ["--integer/--no-integer"],
        default=None,
        help="Round in training all that a device rounds: sums, first layer and head in 8 bits.",
    ),
    click.Option(
        ["--block"],
        type=click.Choice(choices.BLOCKS),
        help="Of a ResNet: auto is post or preact, by --abits; preact-bare is that of 0.1.",
    ),
    click.Option(
        ["--quantizer"],
        type=QUANTIZERS,
        help="How values are quantized.",
    ),
    click.Option(
        ["--layer-bits"],
        type=Assignment("PATTERN=W/A"),
        multiple=True,
        help='Other bits for layers by name: "layer4.*=4/4", 32 for float, "=4/" or "=/4" for one '
        "side; may repeat, the last that matches wins.",
    ),
    click.Option(
        ["--layer-quantizer"],
        type=Assignment("PATTERN=NAME"),
        multiple=True,
        help='Another quantizer for layers by name: "layer4.*=lsq"; may repeat, likewise.',
    ),
    click.Option(
        ["--weight-norm"],
        type=click.Choice(choices.WEIGHT_NORMS),
        help="Before low-bit weights are quantized, per output channel: std: mean 0, deviation 1; "
        "mean-abs: divided by the mean size.",
    ),
    click.Option(
        ["--task"],
        type=TASKS,
        help="What the network predicts for an image.",
    ),
    click.Option(
        ["--stem"],
        type=click.Choice(choices.STEMS),
        help="First layers.",
    ),
]
