"""What the command line asks of the benchmark on a CUDA device, checked and carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsquant.bench.cuda.device import Device, open_device
from rsquant.bench.cuda.engines import ENGINES
from rsquant.bench.cuda.layers import LAYER_ENGINES, bench_layers
from rsquant.bench.cuda.roofline import roofline
from rsquant.bench.cuda.run import BATCHES, bench_networks, check_batches, check_engines
from rsquant.bench.cuda.train import BATCH, bench_training
from rsquant.bench.subject import Subject, choose_subject
from rsquant.errors import ConfigError
from rsquant.machine import gpu

ARCHITECTURES = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Request:
    """Options of `rsquant bench` under their names; None where not given.

    Attributes:
        device: torch's name of it. target: a run or checkpoint.
        form: arch, wbits, abits and width of a fresh network.
        kernels, training: single convolutions, or the training step, instead of whole networks.
    """

    device: str
    target: str | None
    form: Mapping[str, Any]
    resolutions: Sequence[int] | None
    batches: Sequence[int] | None
    threads: Sequence[int] | None
    engines: Sequence[str] | None
    seconds: float
    kernels: bool
    plot: Path | None
    training: bool
    amp: bool


def bench_cuda(
    request: Request, step: Callable[[str, float], None], echo: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows of `bench_networks`, `bench_layers` or `bench_training`.

    Raises:
        ConfigError: options that exclude each other, an unknown engine, no usable device.
    """
    check(request)
    device = open_device(request.device)
    if request.kernels:
        return _layers(request, device, step, echo)
    subject = _subject(request, request.form)
    echo(subject.what)
    if request.training:
        batch = request.batches[0] if request.batches else BATCH
        return bench_training(subject, device, batch, request.amp, request.seconds, step)
    return bench_networks(
        subject,
        device,
        request.resolutions,
        request.batches or BATCHES,
        request.engines,
        request.seconds,
        step,
    )


def check(request: Request) -> None:
    """Raise ConfigError for what can be told from the options alone."""
    if request.threads is not None:
        raise ConfigError("threads: is for the CPU; leave it out with `device='cuda'`")
    if request.kernels and request.training:
        raise ConfigError("kernels, train: choose one of them")
    if request.plot is not None and not request.kernels:
        raise ConfigError("plot: draws single convolutions; add `kernels=True`")
    if request.amp and not request.training:
        raise ConfigError("amp: is for the training step; add `training=True`")
    check_batches(BATCHES if request.batches is None else request.batches)
    if request.training:
        if request.engines is not None:
            raise ConfigError("engines: `training=True` has its own two; leave it out")
        if request.batches is not None and len(request.batches) != 1:
            got = request.batches
            raise ConfigError(f"batch: must be one number with `training=True`, got {got}")
    elif request.engines is not None:
        known = LAYER_ENGINES if request.kernels else tuple(ENGINES)
        check_engines(request.engines, known, known)


def _layers(
    request: Request,
    device: Device,
    step: Callable[[str, float], None],
    echo: Callable[[str], None],
) -> list[dict[str, Any]]:
    form = request.form
    if request.target is None and form["arch"] is None:
        subjects = [_subject(request, {**form, "arch": arch}) for arch in ARCHITECTURES]
    else:
        subjects = [_subject(request, form)]
    for subject in subjects:
        echo(subject.what)
    rows = bench_layers(
        subjects,
        device,
        request.resolutions,
        request.batches or BATCHES,
        request.engines or LAYER_ENGINES,
        request.seconds,
        step,
    )
    if request.plot is not None:
        archs = " and ".join(dict.fromkeys(row["arch"] for row in rows))
        sizes = ", ".join(str(size) for size in dict.fromkeys(row["resolution"] for row in rows))
        where = gpu().get("gpu", "the CPU in a GPU's place")
        roofline(rows, request.plot, f"Convolutions of {archs} at {sizes} on {where}")
    return rows


def _subject(request: Request, form: Mapping[str, Any]) -> Subject:
    return choose_subject(
        request.target,
        form["arch"],
        form["wbits"],
        form["abits"],
        request.resolutions,
        form["width"],
    )
