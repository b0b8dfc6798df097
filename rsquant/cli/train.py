"""`rsquant train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from rsquant import choices, packages
from rsquant.cli.options import (
    ARCH,
    DATA,
    DEVICE,
    QUANTIZERS,
    TASKS,
    Assignment,
    Bits,
    RunOrCheckpoint,
    Share,
    Widths,
    json_option,
    mapping,
    sizes_option,
)
from rsquant.machine import quiet_torch

# Flag -> section of the configuration; the flag's name is the key.
_SECTIONS = {
    "model": (
        "arch",
        "wbits",
        "abits",
        "bits",
        "widths",
        "resolutions",
        "width",
        "stem",
        "grid",
        "block",
        "quantizer",
        "layer_bits",
        "layer_quantizer",
        "individual",
        "integer",
        "task",
        "weight_norm",
    ),
    "data": ("workers", "crop", "area", "flip", "augment", "train_images", "val_images"),
    "train": (
        "epochs",
        "batch",
        "lr",
        "optimizer",
        "momentum",
        "betas",
        "nesterov",
        "weight_decay",
        "decay",
        "schedule",
        "warmup",
        "distillation",
        "teacher",
        "teacher_arch",
        "teacher_at",
        "labels",
        "label_smoothing",
        "clip_norm",
        "patience",
        "ema",
        "bn_reestimate",
        "basis_updates",
        "class_weights",
        "freeze",
        "bits_schedule",
        "calibration",
        "init",
        "mixup",
        "cutmix",
        "norm_momentum",
        "norms",
        "sync_bn",
        "seed",
        "device",
        "amp",
        "accumulate",
        "recompute",
        "threads",
        "save_minutes",
    ),
}
_NEEDED = (*(m for m in packages.EXTRAS["train"] if m != "brevitas"), *packages.EXTRAS["predict"])
# What may change when a run is continued.
_ON_RESUME = {"workers", "device", "save_minutes", "epochs", "teacher", "patience"}


@click.command(short_help="Train a network for several resolutions at once.")
@click.option(
    "--arch", type=ARCH, help=f"{', '.join(choices.ARCHITECTURES)}, torchvision:NAME or timm:NAME."
)
@click.option("--wbits", type=int, help="Bits of weights: 1 to 4, or 32 for float.")
@click.option("--abits", type=int, help="Bits of activations: 1 to 4, or 32 for float.")
@click.option(
    "--bits",
    type=Bits(),
    help="Several settings of bits over one set of weights: 4/4,2/2,1/2, weights / activations.",
)
@click.option(
    "--widths",
    type=Widths(),
    help="Several settings of widths over one set of weights, of ResNets and MobileNetV2: "
    "1.0,0.75,0.5, shares of the channels.",
)
@sizes_option("Sizes to train, in pixels: 224,192,160,128,96.")
@click.option(
    "--individual",
    type=int,
    help="Train for this size alone, with the stem and width of the switchable network of "
    "--resolutions.",
)
@click.option("--width", type=int, help="Channels of a ResNet's first stage (published: 64).")
@click.option(
    "--grid",
    type=click.Choice(choices.GRIDS),
    help="Train with small integer levels: fine up to 127, coarse up to 14 or 15.",
)
@click.option(
    "--integer/--no-integer",
    default=None,
    help="Round in training all that a device rounds: sums, first layer, classifier in 8 bits.",
)
@click.option(
    "--block",
    type=click.Choice(choices.BLOCKS),
    help="Of a ResNet: auto is post or preact, by --abits; preact-bare is that of 0.1.",
)
@click.option("--quantizer", type=QUANTIZERS, help="How values are quantized.")
@click.option(
    "--layer-bits",
    type=Assignment("PATTERN=W/A"),
    multiple=True,
    help=(
        'Other bits for layers by name: "layer4.*=4/4", 32 for float, "=4/" or "=/4" for one side; '
        "may repeat, the last that matches wins."
    ),
)
@click.option(
    "--layer-quantizer",
    type=Assignment("PATTERN=NAME"),
    multiple=True,
    help='Another quantizer for layers by name: "layer4.*=lsq"; may repeat, likewise.',
)
@click.option(
    "--weight-norm",
    type=click.Choice(choices.WEIGHT_NORMS),
    help="Before low-bit weights are quantized, per output channel: std: mean 0, deviation 1; "
    "mean-abs: divided by the mean size.",
)
@click.option("--task", type=TASKS, help="What the network predicts for an image.")
@click.option(
    "--init",
    type=RunOrCheckpoint(),
    metavar="SOURCE",
    help="Start from weights: a run, a checkpoint, a .safetensors or .pth file, "
    "torchvision:WEIGHTS, timm:NAME, or pretrained: those published of --arch.",
)
@click.option("--stem", type=click.Choice(choices.STEMS), help="First layers.")
@click.option(
    "--data",
    type=DATA,
    help="ImageFolder directory (train/ and val/), torchvision:NAME, shapes, or WebDataset shards: "
    "a directory with train-*.tar and val-*.tar, or a pattern like "
    "'DIR/{train-{000..146},val-{00..06}}.tar', also of http(s) addresses. With --resume: where "
    "the run's set is now.",
)
@click.option("--workers", type=int, help="Processes that load images.")
@click.option(
    "--crop",
    type=click.Choice(choices.CROPS),
    help="single: one crop resized to all sizes; multi: a crop per size.",
)
@click.option("--area", type=Share(), help="Range of the cropped share of an image: 0.08,1.")
@click.option("--flip/--no-flip", default=None, help="Mirror half of the crops.")
@click.option(
    "--augment",
    type=click.Choice(choices.AUGMENTATIONS),
    help="Change each crop by one of torchvision's augmentations, the same at all sizes.",
)
@click.option("--mixup", type=float, metavar="ALPHA", help="Mix images and labels: 0.2.")
@click.option(
    "--cutmix",
    type=float,
    metavar="ALPHA",
    help="Paste boxes of other images, the same region at all sizes: 1. With --mixup: either, by "
    "batch.",
)
@click.option("--train-images", type=int, help="Use this many training images.")
@click.option("--val-images", type=int, help="Use this many validation images.")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--batch", type=int, help="Images per step; each is used at every size.")
@click.option("--lr", type=float, help="Initial learning rate.")
@click.option(
    "--optimizer", type=click.Choice(choices.OPTIMIZERS), help="sgd, or Adam and AdamW by --betas."
)
@click.option("--momentum", type=float, help="Of SGD.")
@click.option("--betas", type=Share(), help="Of Adam and AdamW: 0.9,0.999.")
@click.option("--clip-norm", type=float, help="The largest norm of all gradients together.")
@click.option(
    "--label-smoothing", type=float, help="Share of a label that is spread over all classes: 0.1."
)
@click.option(
    "--patience", type=int, help="End after so many epochs without a better mean over the sizes."
)
@click.option(
    "--ema",
    type=float,
    help="Validate and save averages of the weights, which keep this share at each step: 0.999.",
)
@click.option(
    "--bn-reestimate",
    type=int,
    help="At the end, estimate the BatchNorm statistics of every size again, from so many batches.",
)
@click.option("--nesterov/--no-nesterov", default=None, help="Nesterov momentum.")
@click.option(
    "--weight-decay", type=float, help="L2 penalty, on the parameters that --decay names."
)
@click.option(
    "--decay",
    type=click.Choice(choices.DECAYS),
    help="weights of convolutions and linear layers, or all parameters.",
)
@click.option(
    "--schedule",
    type=click.Choice(choices.SCHEDULES),
    help="step: x0.1 at 30, 60, 85, 95, 105 of 120 epochs.",
)
@click.option("--warmup", type=float, help="Epochs in which the rate rises from 0.")
@click.option(
    "--distillation",
    type=click.Choice(choices.DISTILLATIONS),
    help="Who teaches whom; full is the published variant.",
)
@click.option(
    "--teacher",
    type=RunOrCheckpoint(),
    help="What teaches every size beside the labels, best a float network: a run, a checkpoint, a "
    ".safetensors or .pth file, torchvision:WEIGHTS, timm:NAME, pretrained. "
    "With --resume: where the run's teacher is now.",
)
@click.option(
    "--teacher-arch",
    metavar="NETWORK",
    help="Of which network a .safetensors or .pth file and pretrained are, as --arch; else the "
    "run's.",
)
@click.option(
    "--teacher-at",
    type=click.Choice(choices.TEACHER_SIZES),
    help="Sizes whose images the teacher sees; what it says of the largest teaches all.",
)
@click.option("--labels", type=float, help="Weight of the labels' loss beside a teacher: 0 to 1.")
@click.option(
    "--basis-updates",
    type=click.Choice(choices.BASIS_UPDATES),
    help="Sizes that move the activation bases.",
)
@click.option(
    "--class-weights",
    metavar="WEIGHTS",
    help="How much classes count in the loss: none, balanced, or NAME=WEIGHT,NAME=WEIGHT.",
)
@click.option(
    "--freeze",
    metavar="PATTERN",
    multiple=True,
    help='Layers that stay as they are, by name: "layer[123]*"; may repeat.',
)
@click.option(
    "--callback",
    "callbacks",
    metavar="MODULE:NAME",
    multiple=True,
    help="What else hears of steps and epochs, see docs/callbacks.md; may repeat.",
)
@click.option(
    "--bits-schedule",
    metavar="BITS[:EPOCHS],...",
    help="More bits first: 4,3,2 splits the epochs evenly, 4:5,3:5,2:20 says them; the last are "
    "the network's own. Bases are fitted again at each change.",
)
@click.option(
    "--calibration",
    type=int,
    help="Images that activation bases start from; 0: the published start.",
)
@click.option("--norm-momentum", type=float, help="Of BatchNorms: weight of a step's statistics.")
@click.option(
    "--norms",
    type=click.Choice(choices.NORMS),
    help="private: BatchNorms for each size; shared: the same for all, to compare with.",
)
@click.option(
    "--sync-bn/--no-sync-bn",
    default=None,
    help="BatchNorm statistics of all processes that torchrun starts, not of each.",
)
@click.option("--seed", type=int, help="For weights, crops, order and the built-in set.")
@click.option("--device", type=DEVICE, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--amp",
    type=click.Choice(choices.AMP),
    is_flag=False,
    flag_value="bf16",
    help="Mixed precision: bf16 (also --amp alone), fp16 with a scaled loss, or none.",
)
@click.option("--no-amp", is_flag=True, default=None, help="--amp none.")
@click.option(
    "--accumulate",
    type=int,
    help="Parts of a batch that go through the network one by one: the memory of one part, and "
    "BatchNorms of one.",
)
@click.option(
    "--recompute/--no-recompute",
    default=None,
    help="Compute blocks again in backward: a third more time, much less memory, same results.",
)
@click.option("--threads", type=int, help="Threads of torch on the CPU.")
@click.option(
    "--save-minutes",
    type=float,
    help="Also save the state after this many minutes; 0: only after epochs.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A YAML recipe; flags override it.",
)
@click.option("--name", help="Name of the run's folder under runs/.")
@click.option("--exist-ok", is_flag=True, help="Replace a run of that name.")
@json_option("Write the metrics of all epochs here at the end.")
@click.option(
    "--resume",
    type=RunOrCheckpoint(),
    is_flag=False,
    flag_value="",
    default=None,
    help="Continue a run: a folder, or the newest. --epochs may be more than before.",
)
def command(
    data: str | None,
    config_file: Path | None,
    name: str | None,
    exist_ok: bool,
    json_file: Path | None,
    resume: str | None,
    callbacks: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train one network whose weights serve all resolutions.

    Without --data it uses a built-in generated set and a small recipe that takes minutes on a CPU;
    with --data, one for small sets or, from 100,000 images on, the published recipe. --config sets
    everything; flags win. A flag that is not given keeps the recipe's value, which the first lines
    show and the run's config.yaml holds.
    """
    # Before the first step, not after the last: the curves are drawn at the end.
    packages.require("rsquant train", "train", *_NEEDED)
    quiet_torch()
    from rsquant.train.distributed import joined

    flags["layer_bits"] = mapping("--layer-bits", flags["layer_bits"])
    flags["layer_quantizer"] = mapping("--layer-quantizer", flags["layer_quantizer"])
    flags["freeze"] = flags["freeze"] or None
    if flags.pop("no_amp"):
        flags["amp"] = "none"
    given = {key: value for key, value in flags.items() if value is not None}
    if "bits" in given and given.keys() & {"wbits", "abits"}:
        raise click.UsageError("--bits: its first setting has the bits; leave out --wbits, --abits")
    with joined() as group:
        _train(group, data, config_file, name, exist_ok, json_file, resume, callbacks, given)


def _train(
    group: Any,
    data: str | None,
    config_file: Path | None,
    name: str | None,
    exist_ok: bool,
    json_file: Path | None,
    resume: str | None,
    callbacks: tuple[str, ...],
    given: dict[str, Any],
) -> None:
    from rsquant.atomic import check_free
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.train.callbacks import named_callback

    if group.is_first:
        check_free(json_file, exist_ok)
    heard = [named_callback(name) for name in callbacks] if group.is_first else []
    progress = ImageProgress(console(quiet=not group.is_first))
    if resume is not None:
        # --exist-ok is for the --json file then.
        other = bool(config_file or name or (exist_ok and json_file is None))
        run = _resume(group, resume, given, data, other, progress, heard)
    else:
        config, lines, source = _configuration(data, config_file, given)
        from rsquant.train.training import start

        with progress.shown():
            run, result = start(
                config,
                progress,
                progress.echo,
                name,
                exist_ok,
                opening=lines,
                source=source,
                callbacks=heard,
                group=group,
            )
        _finish(group, run, result, progress)
    if group.is_first:
        _write_metrics(json_file, run, progress)


def _configuration(data: str | None, config_file: Path | None, given: dict[str, Any]) -> Any:
    """The RunConfig a command line means, what to tell the user about it, and its data set."""
    from rsquant.train.small_set import configure

    sections: dict[str, dict[str, Any]] = {
        section: {key: given[key] for key in keys if key in given}
        for section, keys in _SECTIONS.items()
    }
    if data is not None:
        sections["data"]["source"] = data
    return configure(config_file, {k: v for k, v in sections.items() if v})


def _resume(
    group: Any,
    resume: str,
    given: dict[str, Any],
    data: str | None,
    others: bool,
    progress: Any,
    callbacks: list[Any],
) -> Path:
    from rsquant.errors import ConfigError

    unfit = sorted(given.keys() - _ON_RESUME)
    if unfit or others:
        what = f"--{unfit[0].replace('_', '-')}" if unfit else "--config, --name, --exist-ok"
        raise ConfigError(
            f"--resume continues a run as it was configured and cannot be combined with {what}; "
            "leave it out, or start a new run"
        )
    folder, note = group.of_first(lambda: _run_to_continue(resume))
    run = Path(folder)
    if note:
        progress.echo(f"run    {run} ({note})")
    from rsquant.train import training

    with progress.shown():
        run, result = training.resume(
            run, progress, progress.echo, data=data, callbacks=callbacks, group=group, **given
        )
    _finish(group, run, result, progress)
    return run


def _run_to_continue(resume: str) -> tuple[str, str]:
    """The folder that --resume means, and a note where that may surprise."""
    from rsquant import runs
    from rsquant.errors import ConfigError

    newest = runs.newest()
    if resume == "" and newest is None:
        raise ConfigError("--resume: there is no run under runs/ to continue")
    run, note = runs.folder(resume) if resume or newest is None else (newest, "")
    return str(run), note


def _write_metrics(json_file: Path | None, run: Path, progress: Any) -> None:
    if json_file is None:
        return
    from rsquant.machine import write_json
    from rsquant.train.metrics import as_numbers, read_metrics

    write_json(json_file, [{"run": str(run), **as_numbers(row)} for row in read_metrics(run)])
    progress.echo(f"written {json_file}")


def _finish(group: Any, run: Path, result: Any, progress: Any) -> None:
    """What came out; nothing where there was nothing left to train."""
    if result is None or not group.is_first:
        return
    from rsquant import runs
    from rsquant.models.checkpoint import load
    from rsquant.packing.obstacle import obstacle
    from rsquant.report.plots import training_curves

    picture = training_curves(run)
    main = result.task.main
    values = {size: metric.figures()[main.name] for size, metric in result.sizes.items()}
    table = ", ".join(f"{size}: {value:.1f} {main.unit}" for size, value in values.items())
    progress.echo(f"{main.title} by resolution  {table}")
    progress.echo(f"run    {run}  (metrics.csv, log.txt, {picture.name}, best and last checkpoint)")
    name = shlex.quote(str(run))
    suggested = [f"rsquant eval {name}", f"rsquant export {name} --all", f"rsquant bench {name}"]
    if not obstacle(load(run / runs.BEST)):
        suggested.insert(1, f"rsquant pack {name}")
    progress.echo(f"next   {'   '.join(suggested[:3])}")
    for line in suggested[3:]:
        progress.echo(f"       {line}")
