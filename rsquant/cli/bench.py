"""`rsquant bench`: networks, kernels and training steps, timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from rsquant.cli import engines as names
from rsquant.cli.bench_group import BenchGroup
from rsquant.cli.engines import Engines
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
Echo = Callable[[str], None]
_Command = TypeVar("_Command", bound=Callable[..., Any])
_ONE_LAYER = {
    "int8": "is timed for single convolutions only: PyTorch has no int8 network to compare with; "
    "use 'rsquant bench kernels'"
}
_WHOLE = {
    name: "runs whole networks: rsquant bench networks"
    for name in (*names.CPU, *names.CUDA)
    if name not in names.CUDA_LAYERS
}


def _together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Options as one decorator, in the order of the help page."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_network = _together(
    run_argument,
    click.option("--arch", type=ARCH, help="Time a fresh network of this architecture instead."),
    click.option("--wbits", type=int, help="Bits of its weights; default 2."),
    click.option("--abits", type=int, help="Bits of its activations; default 2."),
    click.option("--width", type=int, help="Channels of its first stage; default 64."),
    sizes_option("Sizes in pixels, 96,80; default: the network's."),
)
_output = _together(
    json_option(),
    click.option("--exist-ok", is_flag=True, help="Replace the files."),
)


def _device(default: str, text: str) -> Callable[[_Command], _Command]:
    return click.option("--device", type=DEVICE, default=default, show_default=True, help=text)


def _batch(text: str) -> Callable[[_Command], _Command]:
    return click.option("--batch", type=Numbers(), help=text)


def _seconds(text: str) -> Callable[[_Command], _Command]:
    return click.option("--seconds", type=Seconds(), help=text)


@click.group(
    name="bench",
    cls=BenchGroup,
    short_help="Latency per resolution against PyTorch and onnxruntime.",
    subcommand_metavar="[COMMAND | RUN_OR_CHECKPOINT] ...",
)
def command() -> None:
    """Time networks, their convolutions or a training step.

    Without the name of a command networks are timed: `rsquant bench`, `rsquant bench RUN` and
    `rsquant bench --arch resnet50` are `rsquant bench networks ...`. A run that has a command's
    name is given with its folder: runs/kernels.
    """


@command.command("networks")
@_network
@_device("cpu", "cpu, cuda, cuda:N or auto. On cuda: compared with cuDNN, in CUDA graphs.")
@click.option("--threads", type=Numbers(), help="Numbers of threads: 1,2 by default. CPU only.")
@_batch("Images per call: 1 by default; on cuda several, 1,8,32,128,256.")
@click.option(
    "--engines",
    type=Engines((*names.CPU, *names.CUDA), _ONE_LAYER),
    help=f"Comma-separated. CPU: {','.join(names.CPU)}. cuda: {','.join(names.CUDA)}. "
    "Default: all that can run the network.",
)
@_seconds("Time to spend on timing, after preparing the files; 40 by default, 10 for a profile.")
@click.option(
    "--profile",
    is_flag=True,
    help="Time the steps of the packed network instead, each beside its bound, at the largest size "
    "or those given. Also takes a packed file, NAME.rsq. CPU only.",
)
@click.option(
    "--switch",
    is_flag=True,
    help="Time another size at each call instead: one packed session beside onnxruntime's networks "
    "of single sizes, all open or reloaded. CPU only.",
)
@_output
def networks_command(
    threads: tuple[int, ...] | None,
    profile: bool,
    switch: bool,
    json_file: Path | None,
    exist_ok: bool,
    **given: Any,
) -> None:
    """Whole networks in every engine: latency, file, memory, time to load and to switch.

    Times a run folder, a run's name or a checkpoint; default: the newest run. Without any run, a
    freshly initialised resnet18 2/2 is timed: latency does not depend on what was learned. All
    engines, sizes and threads (on cuda: batches) are timed in one interleaved run.

    cudnn_bf16 and cudnn_fp16 run the same architecture without activation quantizers; those with
    _post run torchvision's post-activation ResNet, in which cuDNN fuses everything.
    """

    def rows(step: Step, echo: Echo) -> Sequence[Any]:
        from rsquant.bench import request

        if profile and switch:
            raise click.UsageError("--profile and --switch are two benchmarks; give one of them")
        if profile:
            return request.profile(_request(**given), threads, step, echo)
        if switch:
            return request.switching(_request(**given), threads, step, echo)
        return request.networks(_request(**given), threads, step, echo)

    _show(rows, given["device"], json_file, exist_ok)


@command.command("kernels")
@_network
@_device("cpu", "cpu, cuda, cuda:N or auto.")
@_batch("Images per call, 1,8,32,128,256 by default. cuda only.")
@click.option(
    "--engines",
    type=Engines(names.CUDA_LAYERS, _WHOLE),
    help=f"Comma-separated, of {','.join(names.CUDA_LAYERS)}; default: all. cuda only.",
)
@_seconds("Time to spend on timing, 40 by default. cuda only: on the CPU there are 15 rounds.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the roofline here (PNG). cuda only."
)
@_output
def kernels_command(
    plot: Path | None, json_file: Path | None, exist_ok: bool, **given: Any
) -> None:
    """Each convolution of a network beside what the machine can do.

    Default: ResNet-18 and ResNet-50. On the CPU every kernel of the instruction set, in GMAC/s of
    one thread. On cuda beside cuDNN; int8 is PyTorch's product of int8 matrices for 1x1
    convolutions of stride 1, without any epilogue.
    """

    def rows(step: Step, echo: Echo) -> Sequence[Any]:
        from rsquant.bench.request import kernels

        return kernels(_request(**given), plot, step, echo)

    _show(rows, given["device"], json_file, exist_ok, plot)


@command.command("training")
@_network
@_device("cpu", "cpu, cuda, cuda:N or auto.")
@click.option("--threads", type=Numbers(), help="Of PyTorch; as it chooses by default. CPU only.")
@_batch("Images per step; 64 by default.")
@click.option(
    "--peers",
    type=Engines((*names.TRAINING_PEERS, "none")),
    help=f"Quantizers to compare with, of {','.join(names.TRAINING_PEERS)}, or none; default: all "
    "on the CPU, none on cuda.",
)
@_seconds("Time to spend on timing; 40 by default.")
@click.option("--amp", is_flag=True, help="bfloat16 where it is safe.")
@_output
def training_command(
    amp: bool,
    peers: tuple[str, ...] | None,
    threads: tuple[int, ...] | None,
    json_file: Path | None,
    exist_ok: bool,
    **given: Any,
) -> None:
    """A training step, beside the same network's without quantizers and with others.

    Times a run folder, a run's name or a checkpoint; default: the newest run, or a freshly
    initialised resnet18 2/2. All are timed in one interleaved run.
    """

    def rows(step: Step, echo: Echo) -> Sequence[Any]:
        from rsquant.bench.request import training

        if peers is not None and "none" in peers and len(peers) > 1:
            raise click.UsageError("--peers: none is for no other; leave it out, or the others")
        chosen = None if peers is None else tuple(name for name in peers if name != "none")
        return training(_request(**given), amp, step, echo, chosen, threads)

    _show(rows, given["device"], json_file, exist_ok)


def _request(
    run_or_checkpoint: str | None, seconds: float | None, engines: Any = None, **given: Any
) -> Any:
    from rsquant.bench.request import Request

    return Request(target=run_or_checkpoint, budget=seconds, engines=engines, **given)


def _show(
    find_rows: Callable[[Step, Echo], Sequence[Any]],
    device: str,
    json_file: Path | None,
    exist_ok: bool,
    plot: Path | None = None,
) -> None:
    """Find the rows, print their table, write their file."""
    from rsquant.atomic import check_free
    from rsquant.cli.console import console, show
    from rsquant.cli.unused import refuse_idle_exist_ok

    refuse_idle_exist_ok(json_file, plot)
    check_free(json_file, exist_ok)
    check_free(plot, exist_ok)
    terminal = console()
    echo = partial(show, terminal)
    with _progress(terminal, device) as step:
        rows = find_rows(step, echo)
    from rsquant.cli.bench_tables import printed

    table, notes = printed(rows)
    terminal.print(table)
    for line in notes:
        echo(line)
    if json_file is not None:
        from rsquant.machine import write_json

        write_json(json_file, [asdict(row) for row in rows])
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
