"""Options of `rsquant train` that say how it learns: the section `train` of a run."""

from __future__ import annotations

import click

from rsquant import choices
from rsquant.cli.options import DEVICE, RunOrCheckpoint, Share

# Their names are keys of the configuration, but for --no-amp, which is --amp none.
TRAINING: list[click.Parameter] = [
    click.Option(
        ["--init"],
        type=RunOrCheckpoint(),
        metavar="SOURCE",
        help="Start from weights: a run, a checkpoint, a .safetensors or .pth file, "
        "torchvision:WEIGHTS, timm:NAME, or pretrained: those published of --arch.",
    ),
    click.Option(
        ["--mixup"],
        type=float,
        metavar="ALPHA",
        help="Mix images and labels: 0.2.",
    ),
    click.Option(
        ["--cutmix"],
        type=float,
        metavar="ALPHA",
        help="Paste boxes of other images, the same region at all sizes: 1. With --mixup: either, "
        "by batch.",
    ),
    click.Option(
        ["--epochs"],
        type=int,
        help="Passes over the training images.",
    ),
    click.Option(
        ["--batch"],
        type=int,
        help="Images per step; each is used at every size.",
    ),
    click.Option(
        ["--lr"],
        type=float,
        help="Initial learning rate.",
    ),
    click.Option(
        ["--optimizer"],
        type=click.Choice(choices.OPTIMIZERS),
        help="sgd, or Adam and AdamW by --betas.",
    ),
    click.Option(
        ["--momentum"],
        type=float,
        help="Of SGD.",
    ),
    click.Option(
        ["--betas"],
        type=Share(),
        help="Of Adam and AdamW: 0.9,0.999.",
    ),
    click.Option(
        ["--clip-norm"],
        type=float,
        help="The largest norm of all gradients together.",
    ),
    click.Option(
        ["--label-smoothing"],
        type=float,
        help="Share of a label that is spread over all classes: 0.1.",
    ),
    click.Option(
        ["--patience"],
        type=int,
        help="End after so many epochs without a better mean over the sizes.",
    ),
    click.Option(
        ["--ema"],
        type=float,
        help="Validate and save averages of the weights, which keep this share at each step: "
        "0.999.",
    ),
    click.Option(
        ["--bn-reestimate"],
        type=int,
        help="At the end, estimate the BatchNorm statistics of every size again, from so many "
        "batches.",
    ),
    click.Option(
        ["--nesterov/--no-nesterov"],
        default=None,
        help="Nesterov momentum.",
    ),
    click.Option(
        ["--weight-decay"],
        type=float,
        help="L2 penalty, on the parameters that --decay names.",
    ),
    click.Option(
        ["--decay"],
        type=click.Choice(choices.DECAYS),
        help="weights of convolutions and linear layers, or all parameters.",
    ),
    click.Option(
        ["--schedule"],
        type=click.Choice(choices.SCHEDULES),
        help="step: x0.1 at 30, 60, 85, 95, 105 of 120 epochs.",
    ),
    click.Option(
        ["--warmup"],
        type=float,
        help="Epochs in which the rate rises from 0.",
    ),
    click.Option(
        ["--distillation"],
        type=click.Choice(choices.DISTILLATIONS),
        help="Which sizes' predictions the others learn from; full is the published variant.",
    ),
    click.Option(
        ["--teacher"],
        type=RunOrCheckpoint(),
        help="What teaches every size beside the labels, best a float network: a run, a "
        "checkpoint, a .safetensors or .pth file, torchvision:WEIGHTS, timm:NAME, pretrained. "
        "With --resume: where the run's teacher is now.",
    ),
    click.Option(
        ["--teacher-arch"],
        metavar="NETWORK",
        help="Of which network a .safetensors or .pth file and pretrained are, as --arch; else the "
        "run's.",
    ),
    click.Option(
        ["--teacher-at"],
        type=click.Choice(choices.TEACHER_SIZES),
        help="Sizes whose images the teacher predicts: every, or the largest, for all sizes.",
    ),
    click.Option(
        ["--labels"],
        type=float,
        help="Weight of the labels' loss beside a teacher: 0 to 1.",
    ),
    click.Option(
        ["--basis-updates"],
        type=click.Choice(choices.BASIS_UPDATES),
        help="Sizes that move the activation bases.",
    ),
    click.Option(
        ["--class-weights"],
        metavar="WEIGHTS",
        help="How much classes count in the loss: none, balanced, or NAME=WEIGHT,NAME=WEIGHT.",
    ),
    click.Option(
        ["--freeze"],
        metavar="PATTERN",
        multiple=True,
        help='Layers that stay as they are, by name: "layer[123]*"; may repeat.',
    ),
    click.Option(
        ["--bits-schedule"],
        metavar="BITS[:EPOCHS],...",
        help="More bits first: 4,3,2 splits the epochs evenly, 4:5,3:5,2:20 says them; the last "
        "are the network's own. Bases are fitted again at each change.",
    ),
    click.Option(
        ["--calibration"],
        type=int,
        help="Images that activation bases start from; 0: the published start.",
    ),
    click.Option(
        ["--norm-momentum"],
        type=float,
        help="Of BatchNorms: weight of a step's statistics.",
    ),
    click.Option(
        ["--norms"],
        type=click.Choice(choices.NORMS),
        help="private: BatchNorms for each size; shared: the same for all, to compare with.",
    ),
    click.Option(
        ["--sync-bn/--no-sync-bn"],
        default=None,
        help="BatchNorm statistics of all processes that torchrun starts, not of each.",
    ),
    click.Option(
        ["--seed"],
        type=int,
        help="For weights, crops, order and the built-in set.",
    ),
    click.Option(
        ["--device"],
        type=DEVICE,
        help="auto, cpu, cuda, cuda:1, ...",
    ),
    click.Option(
        ["--amp"],
        type=click.Choice(choices.AMP),
        is_flag=False,
        flag_value="bf16",
        help="Mixed precision: bf16 (also --amp alone), fp16 with a scaled loss, or none.",
    ),
    click.Option(
        ["--no-amp"],
        is_flag=True,
        default=None,
        help="--amp none.",
    ),
    click.Option(
        ["--accumulate"],
        type=int,
        help="Parts of a batch that go through the network one by one: the memory of one part, and "
        "BatchNorms of one.",
    ),
    click.Option(
        ["--recompute/--no-recompute"],
        default=None,
        help="Compute blocks again in backward: a third more time, much less memory, same results.",
    ),
    click.Option(
        ["--threads"],
        type=int,
        help="Threads of torch on the CPU.",
    ),
    click.Option(
        ["--save-minutes"],
        type=float,
        help="Also save the state after this many minutes; 0: only after epochs.",
    ),
]
