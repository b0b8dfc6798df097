"""What the command line asks of a benchmark: checked, then carried out on the device asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsquant.bench.rows import (
    CudaLayerRow,
    LayerRow,
    NetworkRow,
    ProfileRow,
    SwitchRow,
    TrainingRow,
)
from rsquant.bench.subject import Subject, choose_subject
from rsquant.errors import ConfigError
from rsquant.kernels import pick_device
from rsquant.packed.file import open_packed
from rsquant.settings import Variant, bits_names

# What `rsquant bench kernels` looks at where nothing else is asked for.
ARCHITECTURES = ("resnet18", "resnet50")
BUDGET = 40.0
PACKED_SUFFIX = ".rsq"
Step = Callable[[str, float], None]
Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Options under their names; None where not given.

    Attributes:
        device: cpu, auto, or torch's name of a GPU. target: a run or checkpoint.
        arch, wbits, abits, width: of a fresh network.
        batch: images per call, one number or several. budget: seconds of the timing.
    """

    device: str
    target: str | None = None
    arch: str | None = None
    wbits: int | None = None
    abits: int | None = None
    width: int | None = None
    resolutions: Sequence[int] | None = None
    batch: Sequence[int] | None = None
    engines: Sequence[str] | None = None
    budget: float | None = None

    @property
    def seconds(self) -> float:
        """The budget, or the usual one."""
        return BUDGET if self.budget is None else self.budget

    def subject(self, arch: str | None = None, like: bool = True) -> Subject:
        """The network that is timed; `arch` in place of one that was not asked for."""
        return choose_subject(
            self.target,
            self.arch or arch,
            self.wbits,
            self.abits,
            self.resolutions,
            self.width,
            like,
        )

    def subjects(self, like: bool = True) -> list[Subject]:
        """The networks whose layers are timed."""
        if self.target is not None or self.arch is not None:
            return [self.subject(like=like)]
        return [self.subject(arch, like) for arch in ARCHITECTURES]


def networks(
    request: Request, threads: Sequence[int] | None, step: Step, echo: Echo
) -> Sequence[NetworkRow]:
    """Whole networks in all engines.

    Raises:
        ConfigError: an impossible setting or one of another device, no usable GPU.
    """
    request = _on_a_device(request)
    if request.device == "cpu":
        return _cpu_networks(request, threads, step, echo)
    from rsquant.bench.cuda.device import open_device
    from rsquant.bench.cuda.networks import BATCHES, bench_networks, check_batches
    from rsquant.bench.engines.choice import check_engines, cuda_engines

    if threads is not None:
        raise ConfigError("threads: is for the CPU; leave it out with `device='cuda'`")
    batches = check_batches(BATCHES if request.batch is None else request.batch)
    if request.engines is not None:
        check_engines(request.engines, cuda_engines())
    device = open_device(request.device)
    subject = request.subject()
    _tell_costliest(subject.what, tuple(subject.every), echo)
    return bench_networks(
        subject, device, request.resolutions, batches, request.engines, request.seconds, step
    )


def _cpu_networks(
    request: Request, threads: Sequence[int] | None, step: Step, echo: Echo
) -> Sequence[NetworkRow]:
    from rsquant.bench.engines.choice import cpu_engines
    from rsquant.bench.networks import bench, check_settings, default_threads

    batch = _one_batch(request)
    engines = tuple(cpu_engines()) if request.engines is None else request.engines
    check_settings(engines, default_threads() if threads is None else threads, batch)
    subject = request.subject()
    echo(subject.what)
    return bench(
        subject, request.resolutions, threads, batch, request.engines, request.seconds, step
    )


def switching(
    request: Request, threads: Sequence[int] | None, step: Step, echo: Echo
) -> Sequence[SwitchRow]:
    """Another size at each call, on the CPU.

    Raises:
        ConfigError: an impossible setting, another device.
    """
    from rsquant.bench.networks import check_settings, default_threads
    from rsquant.bench.switching import ENGINES, bench_switching

    if _on_a_device(request).device != "cpu":
        raise ConfigError("switch: is for the CPU; choose `device='cpu'`")
    batch = _one_batch(request)
    engines = ENGINES if request.engines is None else request.engines
    check_settings(engines, default_threads() if threads is None else threads, batch)
    subject = request.subject()
    _tell_costliest(subject.what, tuple(subject.every), echo)
    return bench_switching(
        subject, request.resolutions, threads, batch, request.engines, request.seconds, step
    )


def _one_batch(request: Request) -> int:
    batch = (1,) if request.batch is None else request.batch
    if len(batch) != 1:
        raise ConfigError(f"batch: must be one number on the CPU, got {batch}")
    return batch[0]


def profile(
    request: Request, threads: Sequence[int] | None, step: Step, echo: Echo
) -> Sequence[ProfileRow]:
    """The steps of a packed network on the CPU; `target` may be a packed file, NAME.rsq.

    Raises:
        ConfigError: an impossible setting or one that a profile has no use for.
    """
    from rsquant.bench.networks import check_settings, default_threads
    from rsquant.bench.profile import BUDGET, profile_file, profile_network

    if _on_a_device(request).device != "cpu":
        raise ConfigError("profile: is for the CPU; choose `device='cpu'`")
    for name, given in {"engines": request.engines, "batch": request.batch}.items():
        if given is not None:
            raise ConfigError(
                f"{name}: a profile is of one image in the packed network; leave it out"
            )
    counts = default_threads() if threads is None else threads
    check_settings(("packed",), counts, 1)
    budget = BUDGET if request.budget is None else request.budget
    target = request.target
    if target is not None and target.endswith(PACKED_SUFFIX):
        form = ("arch", "wbits", "abits", "width")
        if given_form := [name for name in form if getattr(request, name) is not None]:
            raise ConfigError(
                f"{target} says what the network is; leave out `{'`, `'.join(given_form)}`"
            )
        _tell_costliest(f"packed file {target}", open_packed(Path(target)).variants, echo)
        return profile_file(target, request.resolutions, counts, budget, step)
    subject = request.subject()
    _tell_costliest(subject.what, tuple(subject.every), echo)
    return profile_network(subject, request.resolutions, counts, budget, step)


def kernels(request: Request, plot: Path | None, step: Step, echo: Echo) -> Sequence[LayerRow]:
    """Single convolutions.

    Args:
        plot: where to draw the roofline of a GPU.
    Raises:
        ConfigError: an impossible setting or one of another device, no usable GPU.
    """
    request = _on_a_device(request)
    if request.device == "cpu":
        from rsquant.bench.kernels import bench_kernels

        only = {
            "engines": request.engines,
            "batch": request.batch,
            "seconds": request.budget,
            "plot": plot,
        }
        for name, given in only.items():
            if given is not None:
                raise ConfigError(f"{name}: is for a GPU; leave it out, or choose `device='cuda'`")
        subjects = request.subjects(like=False)
        for subject in subjects:
            _tell_costliest(subject.what, tuple(subject.every), echo)
        return bench_kernels(subjects, request.resolutions, step=step)
    from rsquant.bench.cuda.device import open_device
    from rsquant.bench.cuda.layers import LAYER_ENGINES, bench_layers
    from rsquant.bench.cuda.networks import BATCHES, check_batches
    from rsquant.bench.engines.choice import check_engines

    batches = check_batches(BATCHES if request.batch is None else request.batch)
    if request.engines is not None:
        check_engines(request.engines, LAYER_ENGINES)
    device = open_device(request.device)
    subjects = request.subjects()
    for subject in subjects:
        _tell_costliest(subject.what, tuple(subject.every), echo)
    rows = bench_layers(
        subjects,
        device,
        request.resolutions,
        batches,
        request.engines or LAYER_ENGINES,
        request.seconds,
        step,
    )
    if plot is not None:
        _draw(rows, plot)
    return rows


def training(
    request: Request,
    amp: bool,
    step: Step,
    echo: Echo,
    peers: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
) -> Sequence[TrainingRow]:
    """The training step.

    Args:
        amp: bfloat16 where it is safe.
        peers: quantizers to compare with, see `bench.training`; None: all on the CPU.
        threads: one number, of PyTorch on the CPU; None: as it chooses.
    Raises:
        ConfigError: an impossible setting, no usable GPU.
    """
    request = _on_a_device(request)
    from rsquant.bench.cuda.device import Host, open_device
    from rsquant.bench.cuda.networks import check_batches
    from rsquant.bench.training import BATCH, PEERS, bench_training

    on_host = request.device == "cpu"
    batch = check_batches((BATCH,) if request.batch is None else request.batch)
    if len(batch) != 1:
        raise ConfigError(f"batch: must be one number for a training step, got {batch}")
    if threads is not None and (len(threads) != 1 or threads[0] < 1 or not on_host):
        raise ConfigError("threads: must be one number, 1 or more, and is for the CPU")
    if peers is None:
        peers = PEERS if on_host else ()
    device = Host() if on_host else open_device(request.device)
    subject = request.subject()
    _tell_costliest(subject.what, tuple(subject.every), echo)
    with torch_threads(threads[0] if threads else None):
        return bench_training(subject, device, batch[0], amp, request.seconds, step, peers)


def _tell_costliest(what: str, settings: Sequence[Variant], echo: Echo) -> None:
    """Say what is timed: of several widths and pairs of bits the first, which costs most."""
    echo(what)
    if len(settings) > 1:
        first = f"width {settings[0].width:g}"
        if settings[0].bits is not None:
            first += f", {bits_names([settings[0].bits])} bits"
        echo(
            f"of its {len(settings)} settings the costliest alone is timed: {first}; "
            "'rsquant bench networks' times all of them on the CPU"
        )


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch on so many threads inside the block; None: as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on_a_device(request: Request) -> Request:
    """With "auto" turned into a device; any other name is looked at when that device is opened."""
    if request.device != "auto":
        return request
    return replace(request, device=pick_device("auto"))


def _draw(rows: Sequence[CudaLayerRow], plot: Path) -> None:
    from rsquant.bench.cuda.roofline import roofline
    from rsquant.machine import gpu

    archs = " and ".join(dict.fromkeys(row.arch for row in rows))
    sizes = ", ".join(str(size) for size in dict.fromkeys(row.resolution for row in rows))
    where: Any = gpu().get("gpu", "the CPU in a GPU's place")
    roofline(rows, plot, f"Convolutions of {archs} at {sizes} on {where}")
