"""`rsquant bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from rsquant.cli.options import (
    ARCH,
    DEVICE,
    Numbers,
    Seconds,
    json_option,
    run_argument,
    sizes_option,
)

Step = Callable[[str, float], None]


@click.command(name="bench", short_help="Latency per resolution against PyTorch and onnxruntime.")
@run_argument
@click.option(
    "--device",
    type=DEVICE,
    default="cpu",
    show_default=True,
    help=(
        "cpu, cuda, cuda:N or auto. On cuda: packed networks on a GPU beside cuDNN, in CUDA graphs."
    ),
)
@click.option(
    "--arch", type=ARCH, help="Time a freshly initialised network of this architecture instead."
)
@click.option("--wbits", type=int, help="Its bits of weights; default 2.")
@click.option("--abits", type=int, help="Its bits of activations; default 2.")
@click.option("--width", type=int, help="Channels of its first stage; default 64.")
@sizes_option("Sizes in pixels, 96,80; default: the network's.")
@click.option("--threads", type=Numbers(), help="Numbers of threads: 1,2 by default. CPU only.")
@click.option(
    "--batch",
    type=Numbers(),
    help="Images per call: 1 by default; on cuda several, 1,8,32,128,256, and 64 with --train.",
)
@click.option(
    "--engines",
    help=(
        "Comma-separated. CPU: "
        "torch,ort_float32,ort_int8,packed,packed_low,ort_codebook,ort_codes_int8. cuda: "
        "gpu,cudnn_bf16,cudnn_fp16,cudnn_bf16_post,cudnn_fp16_post, with --kernels "
        "gpu,cudnn_bf16,cudnn_fp16,int8. Default: all."
    ),
)
@click.option(
    "--seconds",
    type=Seconds(),
    default=40.0,
    show_default=True,
    help="Time to spend on timing, after the files are made.",
)
@json_option()
@click.option(
    "--kernels",
    is_flag=True,
    help=(
        "Instead: each convolution of ResNet-18 and -50 (or --arch) beside the machine's bound; "
        "on the CPU in GMAC/s of one thread."
    ),
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="With --kernels on cuda: draw the roofline here (PNG).",
)
@click.option(
    "--train",
    "training",
    is_flag=True,
    help="Instead, on cuda: a training step beside the same network's without quantizers.",
)
@click.option("--amp", is_flag=True, help="With --train: bfloat16 where it is safe.")
@click.option("--exist-ok", is_flag=True, help="Replace the files.")
def command(
    run_or_checkpoint: str | None,
    device: str,
    arch: str | None,
    wbits: int | None,
    abits: int | None,
    width: int | None,
    resolutions: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    batch: tuple[int, ...] | None,
    engines: str | None,
    seconds: float,
    json_file: Path | None,
    kernels: bool,
    plot: Path | None,
    training: bool,
    amp: bool,
    exist_ok: bool,
) -> None:
    """Time a run folder, a run's name or a checkpoint; default: the newest run.

    Without any run, a freshly initialised resnet18 2/2 is timed: latency does not depend on what
    was learned. All engines, sizes and threads (on cuda: batches) are timed in one interleaved run.

    cudnn_bf16 and cudnn_fp16 run the same architecture without activation quantizers; those with
    _post run torchvision's post-activation ResNet, in which cuDNN fuses everything. int8 is
    PyTorch's product of int8 matrices for 1x1 convolutions of stride 1, without any epilogue.
    """
    from rsquant.atomic import check_free
    from rsquant.cli import bench_tables
    from rsquant.cli.console import console, show
    from rsquant.errors import ConfigError

    if device == "auto":
        from rsquant.kernels import pick_device

        device = pick_device(device)
    names = engines.split(",") if engines else None
    for what, where in (("plot", plot), ("train", training), ("amp", amp)):
        if where and device == "cpu":
            raise ConfigError(f"{what}: needs --device cuda")
    if device == "cpu" and batch is not None and len(batch) != 1:
        raise ConfigError(f"batch: must be one number on the CPU, got {batch}")
    check_free(json_file, exist_ok)
    check_free(plot, exist_ok)
    terminal = console()

    def echo(line: str) -> None:
        show(terminal, line)

    with _progress(terminal, device) as step:
        if device != "cpu":
            from rsquant.bench.cuda.request import Request, bench_cuda

            form = {"arch": arch, "wbits": wbits, "abits": abits, "width": width}
            rows = bench_cuda(
                Request(
                    device,
                    run_or_checkpoint,
                    form,
                    resolutions,
                    batch,
                    threads,
                    names,
                    seconds,
                    kernels,
                    plot,
                    training,
                    amp,
                ),
                step,
                echo,
            )
            kind = "kernels" if kernels else "training" if training else "networks"
            table, notes = bench_tables.CUDA[kind](rows)
        elif kernels:
            from rsquant.bench.kernels import ARCHITECTURES, bench_kernels
            from rsquant.config import PAPER_RESOLUTIONS

            archs = (arch,) if arch else ARCHITECTURES
            rows = bench_kernels(archs, resolutions or PAPER_RESOLUTIONS, step=step)
            table, notes = bench_tables.cpu_kernels(rows)
        else:
            from rsquant.bench.run import bench
            from rsquant.bench.subject import choose_subject

            subject = choose_subject(run_or_checkpoint, arch, wbits, abits, resolutions, width)
            echo(subject.what)
            images = 1 if batch is None else batch[0]
            rows = bench(subject, resolutions, threads, images, names, seconds, step)
            table, notes = bench_tables.cpu_networks(rows)
    terminal.print(table)
    for line in notes:
        echo(line)
    if json_file is not None:
        from rsquant.machine import write_json

        write_json(json_file, rows)
        echo(f"written {json_file}")
    if plot is not None:
        echo(f"drawn {plot}")


@contextmanager
def _progress(terminal: Any, device: str) -> Iterator[Step]:
    """A bar on a terminal. Elsewhere, on a GPU, a line per step: a lost run shows where it was."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    start = time.monotonic()
    last = ""
    with bars:
        bar = bars.add_task("loading", total=1.0)

        def step(what: str, done: float) -> None:
            nonlocal last
            bars.update(bar, description=what, completed=done)
            if device != "cpu" and not terminal.is_terminal and what != last:
                click.echo(f"{time.monotonic() - start:6.1f} s  {what}", err=True)
                last = what

        yield step
