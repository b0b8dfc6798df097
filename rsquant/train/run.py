"""Start or continue a run: from a configuration to a trained network in a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rsquant import config as configs
from rsquant import runs
from rsquant.atomic import replacing, sweep
from rsquant.choices import BASIS_UPDATES, CROPS, DECAYS, listed
from rsquant.config import RunConfig
from rsquant.data.identity import changed, moved_note
from rsquant.data.split import Source
from rsquant.device import pick_device
from rsquant.errors import CheckpointError, ConfigError, DataError
from rsquant.evaluate.accuracy import Evaluation
from rsquant.models import build
from rsquant.models.resnet import LAYERS
from rsquant.models.stem import choose_stem
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.precision import parse_layer_bits, parse_layer_quantizer
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.processors import processors
from rsquant.quantizers import kind
from rsquant.settings import of_sizes
from rsquant.tasks import by_name
from rsquant.tasks.run_source import open_run_source
from rsquant.train.lock import locked
from rsquant.train.loop import Progress, Trainer
from rsquant.train.losses import distillation_paths
from rsquant.train.recorder import LOG, METRICS
from rsquant.train.schedule import learning_rate
from rsquant.version import __version__

Echo = Callable[[str], None]
# With fewer in an epoch the batch is too large, or the set too small.
FEW_STEPS = 10
# What training alone writes in a run folder.
WRITTEN = (LOG, METRICS, runs.STATE, runs.LAST, runs.BEST, runs.CONFIG)


def check(config: RunConfig) -> None:
    """Raise ConfigError for settings that cannot be trained, before anything is written."""
    # Types and ranges, also of a RunConfig that was read from no file.
    configs.from_dict(configs.to_dict(config))
    train, data = config.train, config.data
    if train.nesterov and train.momentum == 0:
        raise ConfigError("nesterov: needs a `momentum` above 0, or `nesterov=False`")
    if not 0 < data.area[0] <= data.area[1] <= 1:
        raise ConfigError(f"area: must be two shares 0 < low <= high <= 1, got {data.area}")
    if data.crop not in CROPS:
        raise ConfigError(f"crop: must be {listed(CROPS)}, got '{data.crop}'")
    if train.decay not in DECAYS:
        raise ConfigError(f"decay: must be {listed(DECAYS)}, got '{train.decay}'")
    if train.calibration < 0 or train.calibration == 1:
        raise ConfigError(
            f"calibration: must be 2 or more images, or 0 for none, got {train.calibration}"
        )
    if train.basis_updates not in BASIS_UPDATES:
        names = listed(BASIS_UPDATES)
        raise ConfigError(f"basis_updates: must be {names}, got '{train.basis_updates}'")
    by_name(config.model.task)
    kind(config.model.quantizer)
    parse_layer_bits(config.model.layer_bits)
    parse_layer_quantizer(config.model.layer_quantizer)
    distillation_paths(1, train.distillation)
    learning_rate(train.schedule, train.lr, 0.0, train.epochs, train.warmup)
    if train.device != "auto":
        pick_device(train.device)


def start(
    config: RunConfig,
    progress: Progress,
    echo: Echo,
    name: str | None = None,
    exist_ok: bool = False,
    root: Path = runs.RUNS,
    opening: Sequence[str] = (),
    source: Source | None = None,
) -> tuple[Path, Evaluation]:
    """Train a new network.

    Args:
        config: everything about it.
        progress, echo: where to show progress and log lines.
        name: the run's folder under `root`; None picks an unused one from the network's name.
        exist_ok: replace a run of that name.
        source: the data set, where it has been opened already.
        opening: lines to show once it is clear that training can begin.
    Returns:
        The run folder, and the last epoch's validation.
    """
    check(config)
    train = config.train  # a run of before this was checked may be continued
    if not 0 <= train.warmup <= train.epochs:
        raise ConfigError(
            f"warmup: must be 0 to {train.epochs}, the number of epochs, got {train.warmup:g}"
        )
    source = open_data(config) if source is None else source
    torch.manual_seed(config.train.seed)
    network = _build(config, source)
    resolved = _identified(config, source)
    if config.model.individual is None:
        resolved = dataclasses.replace(
            resolved, model=dataclasses.replace(config.model, resolutions=network.resolutions)
        )
    run = _new_folder(config, name, exist_ok, root)
    with locked(run):
        _clear(run)
        _write_config(resolved, run)
        trainer = _trainer(resolved, network, source, run, progress, echo)
        for line in opening:
            echo(line)
        result = trainer.train(_description(trainer))
    assert result is not None  # a new run has at least one epoch
    return run, result


def resume(
    run: Path,
    progress: Progress,
    echo: Echo,
    workers: int | None = None,
    device: str | None = None,
    data: str | None = None,
    save_minutes: float | None = None,
    epochs: int | None = None,
) -> tuple[Path, Evaluation | None]:
    """Continue an interrupted run exactly where it stopped.

    Args:
        run: the run folder.
        workers, device, save_minutes: may differ from the first time; None keeps them.
        data: where the data set is now, which must be the same one; None: where it was.
        epochs: how many in all, at least those that are done; the learning rate then follows the
            schedule of that many. None: as before.
    Returns:
        The run folder, and the last epoch's validation, None if it had finished already.
    """
    if not (run / runs.CONFIG).is_file():
        raise CheckpointError(f"{run}: no run to resume (no {runs.CONFIG} in it)")
    once: dict[str, dict[str, Any]] = {
        "data": {"workers": workers},
        "train": {"device": device, "save_minutes": save_minutes},
    }
    with locked(run):
        _sweep(run)
        return run, _continue(run, progress, echo, data, epochs, once)


def _continue(
    run: Path,
    progress: Progress,
    echo: Echo,
    data: str | None,
    epochs: int | None,
    once: dict[str, dict[str, Any]],
) -> Evaluation | None:
    """`resume`; settings in `once` are not kept for the next time, where and how long are."""
    stored = configs.load_run(run / runs.CONFIG)
    before = stored.train.epochs
    if epochs is not None:
        stored = configs.from_dict({"train": {"epochs": epochs}}, "settings", stored)
    given = {s: {k: v for k, v in keys.items() if v is not None} for s, keys in once.items()}
    config = configs.from_dict(given, "settings", stored)
    check(config)
    source = open_data(config, data)
    if difference := changed(config, source):
        raise CheckpointError(
            f"{run}: cannot go on as it would have: {difference}; `data=DIR` says where that is"
        )
    if note := moved_note(config, source):
        echo(note)
    torch.manual_seed(config.train.seed)
    trainer = _trainer(config, _build(config, source), source, run, progress, echo)
    if (run / runs.STATE).is_file():
        trainer.resume()
    state = trainer.state
    done = state.epoch + (state.step > 0)
    if config.train.epochs < done:
        raise ConfigError(
            f"epochs: {run} is in epoch {done} or has done it, so it cannot end after "
            f"{config.train.epochs}; give {done} or more"
        )
    if data is not None or config.train.epochs != before:
        _write_config(_identified(stored, source), run)
    if config.train.epochs != before:
        echo(
            f"{config.train.epochs} epochs instead of {before}: the learning rate goes on by the "
            f"schedule '{config.train.schedule}' of {config.train.epochs}"
        )
    if state.epoch >= config.train.epochs:
        echo(f"{run}: all {config.train.epochs} epochs are done already")
        return None
    where = f"epoch {state.epoch + 1} of {config.train.epochs}, step {state.step}"
    return trainer.train([f"{run}: continuing in {where}"])


def open_data(config: RunConfig, data: str | None = None) -> Source:
    """The data set of a configuration, or of the same run in a new place.

    Raises:
        DataError: there is none, or too little to train on.
    """
    source = open_run_source(config, data)
    if len(source.train) < 2:
        raise DataError(
            f"data: {source.name} has {len(source.train)} training image; BatchNorm needs 2 or more"
        )
    return source


def _identified(config: RunConfig, source: Source) -> RunConfig:
    """The configuration with what finds and recognises its data set, from any folder."""
    data = dataclasses.replace(config.data, source=source.place, fingerprint=source.fingerprint)
    return dataclasses.replace(config, data=data)


def _write_config(config: RunConfig, run: Path) -> None:
    with replacing(run / runs.CONFIG) as temporary:
        temporary.write_text(configs.dump_yaml(config))


def _build(config: RunConfig, source: Source) -> SwitchableNetwork:
    model = config.model
    resolutions, stem = model.resolutions, model.stem
    if model.individual is not None:
        # All that the switchable network's resolutions decide, before they are replaced.
        switchable = tuple(one.size for one in of_sizes(resolutions))
        if model.arch in LAYERS:
            stem = choose_stem(stem, switchable)[0]
        resolutions = (model.individual,)
    spec = ModelSpec(
        arch=model.arch,
        wbits=model.wbits,
        abits=model.abits,
        resolutions=resolutions,
        num_classes=len(source.classes),
        width=model.width,
        stem=stem,
        grid=model.grid,
        block=model.block,
        quantizer=model.quantizer,
        task=model.task,
        layer_bits=parse_layer_bits(model.layer_bits),
        layer_quantizer=parse_layer_quantizer(model.layer_quantizer),
        integer=model.integer,
        classes=source.classes,
    )
    return build(spec)


def _trainer(
    config: RunConfig,
    network: SwitchableNetwork,
    source: Source,
    run: Path,
    progress: Progress,
    echo: Echo,
) -> Trainer:
    # torch's own number knows nothing of a container's quota.
    torch.set_num_threads(config.train.threads or min(torch.get_num_threads(), processors()))
    if config.train.norm_momentum is not None:
        for norm in _norms(network):
            norm.momentum = config.train.norm_momentum
    device = pick_device(config.train.device)
    return Trainer(network, source, config, run, device, progress, echo)


def _description(trainer: Trainer) -> list[str]:
    """The first lines of a run's log: what is trained, on what, and which choices were made."""
    config, network, source = trainer.config, trainer.network, trainer.source
    spec, model = network.spec, config.model
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"rsquant {__version__}, torch {torch.__version__}, device {trainer.device}, "
        f"{torch.get_num_threads()} threads, seed {config.train.seed}",
        f"data {source.name}: {len(source.train)} training and {len(source.val)} validation "
        f"images, {len(source.classes)} classes",
        f"network {spec.arch} {spec.bits_text}, grid {spec.grid}, {_width(spec)}"
        f"resolutions {', '.join(map(str, spec.resolutions))}, {parameters / 1e6:.2f} M parameters",
    ]
    if source.note:
        lines.insert(2, source.note)
    if network.conversion is not None:
        lines.append(network.conversion.summary())
    if len(set(spec.resolutions)) < len(spec.resolutions):
        lines.append(
            f"{len(spec.resolutions)} paths at one resolution, each with its own BatchNorms; eval, "
            "export and pack use the first"
        )
    if model.individual is not None:
        stem = "" if spec.stem == "own" else f", stem '{spec.stem}'"
        lines.append(
            f"individual network at {model.individual}{stem} as the switchable network of "
            f"{', '.join(map(str, model.resolutions))}"
        )
    elif spec.stem != "own":
        lines.append(choose_stem(model.stem, spec.resolutions)[1])
    steps = max(1, len(source.train) // config.train.batch)
    lines.append(f"{config.train.epochs} epochs of {steps} steps; a line after each epoch")
    lines += _slow_statistics(network, config.train.epochs * steps)
    return lines + _warnings(source, steps, config.train.batch)


def _warnings(source: Source, steps: int, batch: int) -> list[str]:
    """What can hardly be meant, in lines for the log."""
    lines = []
    if len(source.classes) == 1:
        lines.append(
            f"warning: {source.name} has one class, {source.classes[0]}: every prediction is right "
            "and nothing is learned; a set needs a folder for each class"
        )
    if steps < FEW_STEPS:
        lines.append(
            f"warning: an epoch of {len(source.train)} images in batches of {batch} has only "
            f"{steps} step{'s' if steps > 1 else ''}: the network changes little in each, choose a "
            "smaller `batch` or add images"
        )
    return lines


def _norms(network: SwitchableNetwork) -> list[SwitchableBatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]


def _slow_statistics(network: SwitchableNetwork, steps: int) -> list[str]:
    """A warning where BatchNorms would end with statistics that are mostly those of the start."""
    momenta = [n.momentum for n in _norms(network) if n.momentum is not None and n.training]
    slowest = min(momenta, default=1.0)
    if slowest >= 0.1 or slowest * steps >= 3:  # then at most e^-3 of the start is left
        return []
    return [
        f"warning: BatchNorms of this network average over some {1 / slowest:,.0f} steps "
        f"(momentum {slowest:.2g}), longer than this training; it will validate badly. "
        "`norm_momentum=0.1` lets them follow"
    ]


def _width(spec: ModelSpec) -> str:
    return "" if spec.stem == "own" else f"width {spec.width}, "


def _check_name(name: str) -> None:
    """Raise ConfigError for what is no name of a folder below runs/, or of one far below it."""
    parts = name.split("/")
    if name.startswith("/") or any(p in ("", ".", "..") for p in parts):
        raise ConfigError(
            f"name: must be a name below runs/, such as first or trials/first, got '{name}'"
        )
    if not name.isprintable():
        raise ConfigError(f"name: must be printable text, got {name!r}")


def _new_folder(config: RunConfig, name: str | None, exist_ok: bool, root: Path) -> Path:
    """Make the folder, so that no other process makes it too; or find the one to replace."""
    model = config.model
    if name is not None:
        _check_name(name)
    try:
        if name is not None:
            run = root / name
            try:
                run.mkdir(parents=True, exist_ok=exist_ok)
            except FileExistsError:
                if not run.is_dir():
                    raise ConfigError(f"{run}: is a file; choose another `name`") from None
                raise ConfigError(
                    f"{run}: exists already; choose another `name`, continue it with "
                    f"`resume({str(run)!r})`, or replace it with `exist_ok=True`"
                ) from None
            return run
        stem = f"{model.arch.replace(':', '_')}_w{model.wbits}a{model.abits}"
        stem += "_integer" if model.integer else ""
        stem += "_mixed" if model.layer_bits or model.layer_quantizer else ""
        stem += "" if model.individual is None else f"_at{model.individual}"
        run, number = root / stem, 2
        while True:
            try:
                run.mkdir(parents=True)
                return run
            except FileExistsError:
                if not run.exists() and not run.is_symlink():
                    raise  # it was the folder above: a link to nothing
                run, number = root / f"{stem}-{number}", number + 1
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror})") from error


def _clear(run: Path) -> None:
    """Remove what an earlier run in the folder left, and what was made from its network."""
    _sweep(run)
    try:
        for old in WRITTEN:
            (run / old).unlink(missing_ok=True)
        exported = ("*.rsq", "export/*.onnx", "export/*.weights")
        for pattern in ("events.out.tfevents.*", "*.png", *exported):
            for old_file in run.glob(pattern):
                old_file.unlink()
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror})") from error


def _sweep(run: Path) -> None:
    """Remove temporary files that a killed training left in its folder, which is locked."""
    for name in WRITTEN:
        sweep(run, name, owned=True)
    sweep(run)
    for path in run.glob(".tmp??????"):  # those of rsquant 0.1
        with suppress(OSError):
            path.unlink()
