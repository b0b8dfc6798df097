"""Start or continue a run: from a configuration to a trained network in a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant import config as configs
from rsquant import runs
from rsquant.config import RunConfig
from rsquant.data.identity import changed, moved_note
from rsquant.data.split import Source
from rsquant.device import pick_device
from rsquant.errors import CheckpointError, ConfigError, DataError
from rsquant.evaluate.accuracy import Evaluation
from rsquant.models import build
from rsquant.models.resnet import LAYERS
from rsquant.models.stem import choose_stem
from rsquant.nn.frozen import freeze_layers
from rsquant.nn.norm import switchable_norms
from rsquant.nn.precision import parse_layer_bits, parse_layer_quantizer
from rsquant.nn.recompute import blocks
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.processors import processors
from rsquant.settings import checked_bits, checked_widths, of_sizes
from rsquant.tasks import by_name
from rsquant.tasks.run_source import open_run_source
from rsquant.train.begin import begin, recorded
from rsquant.train.bits_schedule import Phase, in_phase, phases, with_epochs
from rsquant.train.callbacks import Callback
from rsquant.train.check import check
from rsquant.train.class_weights import class_weights
from rsquant.train.distributed import (
    can_continue,
    check_alike,
    check_batch,
    check_restartable,
    check_synced,
    device_name,
    files_of_first,
    mark_launch,
    restarted_in,
)
from rsquant.train.effects import check_effects
from rsquant.train.lock import locked
from rsquant.train.loop import Trainer
from rsquant.train.opening import opening_lines
from rsquant.train.progress import Progress
from rsquant.train.run_folder import clear, new_folder, remove_temporary, write_config
from rsquant.train.state import saved_bits
from rsquant.train.teacher import Teacher, check_same, check_teacher_arch, open_teacher

Echo = Callable[[str], None]


def start(
    config: RunConfig,
    progress: Progress,
    echo: Echo,
    name: str | None = None,
    exist_ok: bool = False,
    root: Path = runs.RUNS,
    opening: Sequence[str] = (),
    source: Source | None = None,
    callbacks: Sequence[Callback] = (),
    group: ProcessGroup = ALONE,
) -> tuple[Path, Evaluation | None]:
    """Train a new network; one that torchrun restarts goes on from its saved state.

    Args:
        config: everything about it.
        progress, echo: where to show progress and log lines.
        name: the run's folder under `root`; None picks an unused one from the network's name.
        exist_ok: replace a run of that name.
        source: the data set, where it has been opened already.
        opening: lines to show once it is clear that training can begin.
        callbacks: what else hears of it, see `rsquant.train.callbacks`.
        group: the processes that train it together; each calls this with the same arguments.
    Returns:
        The run folder, and the last epoch's validation, None if a restart found it finished.
    """
    check_restartable(name)
    if name is not None and group.of_first(lambda: restarted_in(root / name)):
        if group.of_first(lambda: can_continue(root / name)):
            return resume(root / name, progress, echo, callbacks=callbacks, group=group)
        exist_ok = True
    check(config)
    check_effects(config)
    train = config.train  # a run of before this was checked may be continued
    if not 0 <= train.warmup <= train.epochs:
        raise ConfigError(
            f"warmup: must be 0 to {train.epochs}, the number of epochs, got {train.warmup:g}"
        )
    check_batch(config, group)
    check_synced(config, group)
    source = open_data(config) if source is None else source
    check_alike(group, config, source)
    torch.manual_seed(config.train.seed)
    config = with_epochs(config)
    first = phases(config)[0]
    network = _build(in_phase(config, first), source)
    begun = begin(network, config.train)
    teacher = open_teacher(config, network.spec, _device(config, group))
    check_teacher_arch(config.train)
    resolved = _identified(recorded(config, network), source, teacher)
    if config.model.individual is None:
        resolved = dataclasses.replace(
            resolved, model=dataclasses.replace(resolved.model, resolutions=network.resolutions)
        )
    individual = config.model.individual
    stem = _spec(config, source).file_stem + ("" if individual is None else f"_at{individual}")
    weights = _check_before_clearing(config, network, source)
    if name is not None:
        _check_sources(root / name, resolved)
    run = Path(group.of_first(lambda: str(new_folder(stem, name, exist_ok, root))))
    with _owned(run, group):
        if group.is_first:
            clear(run)
            mark_launch(run)
            write_config(resolved, run)
        trainer = _trainer(
            resolved,
            first,
            network,
            source,
            run,
            progress,
            echo,
            callbacks,
            teacher,
            group,
            weights,
        )
        trainer.begun = begun
        for line in opening:
            echo(line)
        return run, _train(trainer, resolved, opening_lines(trainer))


def resume(
    run: Path,
    progress: Progress,
    echo: Echo,
    workers: int | None = None,
    device: str | None = None,
    data: str | None = None,
    save_minutes: float | None = None,
    epochs: int | None = None,
    callbacks: Sequence[Callback] = (),
    teacher: str | None = None,
    group: ProcessGroup = ALONE,
    patience: int | None = None,
) -> tuple[Path, Evaluation | None]:
    """Continue an interrupted run exactly where it stopped.

    Args:
        run: the run folder.
        workers, device, save_minutes: may differ from the first time; None keeps them.
        data: where the data set is now, which must be the same one; None: where it was.
        epochs: how many in all, at least those that are done; the learning rate then follows the
            schedule of that many. None: as before.
        callbacks: as in `start`; a run does not keep them.
        teacher: where the run's teacher is now, the same weights; None: where it was.
        group: the processes that train it together, as many as before or others.
        patience: see `TrainConfig`, for a run that ended early; None: as before.
    Returns:
        The run folder, and the last epoch's validation, None if it had finished already.
    """
    if group.is_first and not (run / runs.CONFIG).is_file():
        raise CheckpointError(f"{run}: no run to resume (no {runs.CONFIG} in it)")
    kept = {"epochs": epochs, "teacher": teacher, "patience": patience}
    once: dict[str, dict[str, Any]] = {
        "data": {"workers": workers},
        "train": {"device": device, "save_minutes": save_minutes},
    }
    with _owned(run, group):
        if group.is_first:
            remove_temporary(run)
        with files_of_first(group, run, (runs.CONFIG, runs.STATE)) as files:
            trainer, config, opening = _continued(
                run, files, progress, echo, data, kept, once, callbacks, group
            )
        return run, None if trainer is None else _train(trainer, config, opening)


def _owned(run: Path, group: ProcessGroup) -> AbstractContextManager[None]:
    """Hold a run folder, as the first process does for all."""
    return locked(run) if group.is_first else nullcontext()


def _continued(
    run: Path,
    files: Path,
    progress: Progress,
    echo: Echo,
    data: str | None,
    kept: dict[str, Any],
    once: dict[str, dict[str, Any]],
    callbacks: Sequence[Callback],
    group: ProcessGroup,
) -> tuple[Trainer | None, RunConfig, list[str]]:
    """What `resume` trains, None if nothing is left to do, its settings, and what it says first.

    Settings in `kept` are kept for the next time, those in `once` are not.

    Args:
        files: where its configuration and state are read from.
    """
    stored = configs.load_run(files / runs.CONFIG)
    before = stored.train.epochs
    changes = {key: value for key, value in kept.items() if value is not None}
    if "teacher" in changes and stored.train.teacher is None:
        raise ConfigError(f"teacher: {run} was begun without one; start a new run")
    written, stored = stored, configs.from_dict({"train": changes}, "settings", stored)
    given = {s: {k: v for k, v in keys.items() if v is not None} for s, keys in once.items()}
    config = configs.from_dict(given, "settings", stored)
    check(config)
    check_batch(config, group)
    source = open_data(config, data)
    check_alike(group, config, source)
    if difference := changed(config, source):
        raise CheckpointError(
            f"{run}: cannot continue as before: {difference}; give its folder with `data=DIR`"
        )
    if note := moved_note(config, source):
        echo(note)
    torch.manual_seed(config.train.seed)
    phase = _phase_of(files, config)
    network = _build(in_phase(config, phase), source)
    taught_by = open_teacher(config, network.spec, _device(config, group))
    check_same(taught_by, config, run)
    weights = class_weights(config.train.class_weights, source)
    trainer = _trainer(
        config, phase, network, source, run, progress, echo, callbacks, taught_by, group, weights
    )
    if (files / runs.STATE).is_file():
        trainer.resume(files)
    else:
        trainer.begun = begin(trainer.network, config.train)
    state = trainer.state
    done = state.epoch + (state.step > 0)
    if config.train.epochs < done:
        raise ConfigError(
            f"epochs: {run} is already in epoch {done} or past it, so it cannot end after "
            f"{config.train.epochs}; give {done} or more"
        )
    if group.is_first and (data is not None or stored != written):
        write_config(_identified(stored, source, taught_by), run)
    if config.train.epochs != before:
        echo(
            f"{config.train.epochs} epochs instead of {before}: the learning rate continues by the "
            f"schedule '{config.train.schedule}' of {config.train.epochs}"
        )
    if trainer.ending.is_finished:
        echo(f"{run}: {trainer.end_line}")
        return None, config, []
    where = f"epoch {state.epoch + 1} of {config.train.epochs}, step {state.step}"
    return trainer, config, [f"{run}: continuing in {where}"]


def _check_before_clearing(
    config: RunConfig, network: SwitchableNetwork, source: Source
) -> Tensor | None:
    """Raise what a trainer would, before it replaces an older run; the weights of classes."""
    train, task = config.train, by_name(network.spec.task)
    freeze_layers(network, train.freeze)
    if train.recompute:
        blocks(network.body)
    counts = task.check_source(source, network.stride)
    weights = class_weights(train.class_weights, source, counts)
    if weights is not None:
        task.weighted(weights)
    return weights


def _check_sources(run: Path, config: RunConfig) -> None:
    """Raise ConfigError if a run is to replace the one that it starts or learns from."""
    for what, place in (("init", config.train.init), ("teacher", config.train.teacher)):
        if place is not None and Path(place).resolve().is_relative_to(run.resolve()):
            raise ConfigError(
                f"{what}: {place} is of the run that this one would replace; choose another `name`"
            )


def _train(trainer: Trainer, config: RunConfig, opening: Sequence[str]) -> Evaluation | None:
    """Train to the end, with a new trainer for each phase of bits that follows."""
    callbacks = trainer.callbacks
    try:
        callbacks.on_start(trainer.run, configs.to_dict(config))
        result = trainer.train(opening)
        for phase in phases(config):
            if phase.begin >= trainer.phase.end:
                trainer = _next_phase(trainer, config, phase)
                bits = trainer.network.spec.bits_text
                line = f"from epoch {phase.begin + 1} on {bits}: levels start again"
                result = trainer.train([line])
    except BaseException:
        with suppress(Exception):  # what ended the training is what is told
            callbacks.on_end(False)
        raise
    callbacks.on_end(True)
    return result


def _next_phase(before: Trainer, config: RunConfig, phase: Phase) -> Trainer:
    """The trainer that goes on with the bits of the next phase."""
    # As a process that continues the run begins: it must draw no other numbers.
    with torch.random.fork_rng(devices=[]):
        network = _build(in_phase(config, phase), before.source)
    after = _trainer(
        config,
        phase,
        network,
        before.source,
        before.run,
        before.progress,
        before.echo,
        before.callbacks.all,
        before.teacher,
        before.group,
        before.class_weights,
    )
    after.continue_from(before)
    return after


def _phase_of(run: Path, config: RunConfig) -> Phase:
    """The phase in which a run was saved; the first, if it was not."""
    every = phases(config)
    if len(every) == 1 or not (run / runs.STATE).is_file():
        return every[0]
    bits = saved_bits(run / runs.STATE)
    for phase in every:
        if phase.bits == bits:
            return phase
    raise CheckpointError(
        f"{run / runs.STATE}: is of another `bits_schedule` than {config.train.bits_schedule}; "
        f"restore the run's {runs.CONFIG}, or start a new run"
    )


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


def _identified(config: RunConfig, source: Source, teacher: Teacher | None) -> RunConfig:
    """The configuration, with what finds its data set and teacher again from any folder."""
    data = dataclasses.replace(config.data, source=source.place, fingerprint=source.fingerprint)
    train = config.train
    if teacher is not None:
        train = dataclasses.replace(
            train, teacher=teacher.place, teacher_fingerprint=teacher.fingerprint
        )
    return dataclasses.replace(config, data=data, train=train)


def _build(config: RunConfig, source: Source) -> SwitchableNetwork:
    return build(_spec(config, source))


def _spec(config: RunConfig, source: Source) -> ModelSpec:
    model = config.model
    resolutions, stem = model.resolutions, model.stem
    if model.individual is not None:
        # All that the switchable network's resolutions decide, before they are replaced.
        switchable = tuple(one.size for one in of_sizes(resolutions))
        if model.arch in LAYERS:
            stem = choose_stem(stem, switchable)[0]
        resolutions = (model.individual,)
    bits = checked_bits(model.bits)
    wbits, abits = bits[0] if bits else (model.wbits, model.abits)
    return ModelSpec(
        arch=model.arch,
        wbits=wbits,
        abits=abits,
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
        weight_norm=model.weight_norm,
        bits=bits,
        widths=checked_widths(model.widths),
        classes=source.classes,
        **{name: value for name in ("mean", "std") if (value := getattr(model, name))},
    )


def _trainer(
    config: RunConfig,
    phase: Phase,
    network: SwitchableNetwork,
    source: Source,
    run: Path,
    progress: Progress,
    echo: Echo,
    callbacks: Sequence[Callback],
    teacher: Teacher | None,
    group: ProcessGroup,
    weights: Tensor | None,
) -> Trainer:
    # torch's own number knows nothing of a container's quota.
    torch.set_num_threads(config.train.threads or min(torch.get_num_threads(), processors()))
    if config.train.norm_momentum is not None:
        for norm in switchable_norms(network):
            norm.momentum = config.train.norm_momentum
    freeze_layers(network, config.train.freeze)
    device = _device(config, group)
    return Trainer(
        network,
        source,
        config,
        run,
        device,
        progress,
        echo,
        callbacks,
        phase,
        teacher,
        group,
        weights,
    )


def _device(config: RunConfig, group: ProcessGroup) -> torch.device:
    """Where this process trains."""
    return pick_device(device_name(config.train.device, group))
