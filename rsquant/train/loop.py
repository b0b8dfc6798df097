"""The training loop: all resolutions of a batch in one step, everything resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsquant import runs
from rsquant.config import RunConfig, TrainConfig
from rsquant.data.loader import Batch, Batches, UnreadableLog, training_batches
from rsquant.data.split import Source
from rsquant.errors import CheckpointError, DataError, RsquantError
from rsquant.evaluate.accuracy import Evaluation, evaluate
from rsquant.models.start_from import Start
from rsquant.nn.modes import training_mode
from rsquant.nn.norm import switchable_norms
from rsquant.nn.shared_norm import share_norms
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.settings import row_names
from rsquant.system import refusal
from rsquant.tasks import by_name
from rsquant.train.average import Average
from rsquant.train.begin import fit_to_images
from rsquant.train.bits_schedule import Phase
from rsquant.train.callbacks import Callback, Callbacks
from rsquant.train.checkpoints import Checkpoints
from rsquant.train.data_parallel import check_equal
from rsquant.train.distributed import seed_step
from rsquant.train.ending import Ending, compared, with_own_statistics
from rsquant.train.estimate import Estimate
from rsquant.train.figures import add_step, epoch_row, mean, summary
from rsquant.train.interrupt import Interrupt, deferred_interrupt
from rsquant.train.level_record import record_levels
from rsquant.train.losses import ensemble_logits
from rsquant.train.mixing import Mixing
from rsquant.train.optimizer import make_optimizer
from rsquant.train.other_bits import carry_over
from rsquant.train.parameter_groups import parameter_groups
from rsquant.train.progress import Progress
from rsquant.train.readings import Readings
from rsquant.train.recorder import Recorder, Unrecorded
from rsquant.train.sandwich import rows_of_step
from rsquant.train.saved_state import SavedState
from rsquant.train.schedule import learning_rate
from rsquant.train.state import TrainingState
from rsquant.train.step import Step
from rsquant.train.teacher import Teacher


class Trainer:
    """Trains one network from a configuration into a run folder.

    Args:
        network: moved to the device and to channels_last. Modules in evaluation mode, in a network
            in training mode, are frozen and stay so.
        source: where images come from.
        config: its data and train sections.
        run: the run folder, which exists.
        device: where to train.
        progress, echo: where to show progress and log lines.
        callbacks: what else hears of it.
        phase: the epochs to train; None: all.
        teacher: another network that teaches it, on the device.
        group: the processes that train it together, each with these arguments. The first alone
            writes to the run folder.
        class_weights: those of the loss, (classes,) float32, as `class_weights` of `config` says.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        source: Source,
        config: RunConfig,
        run: Path,
        device: torch.device,
        progress: Progress,
        echo: Callable[[str], None],
        callbacks: Sequence[Callback] = (),
        phase: Phase | None = None,
        teacher: Teacher | None = None,
        group: ProcessGroup = ALONE,
        class_weights: Tensor | None = None,
    ) -> None:
        self.phase = phase or Phase(None, 0, config.train.epochs)
        self.group = group
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.basis_updates = config.train.basis_updates
        self.source, self.config, self.run, self.device = source, config, run, device
        self.task = by_name(network.spec.task)
        self._settings = row_names(network.settings)
        # A network that switches its size alone trains all settings in each step.
        self._sampled = len(network.settings) if network.spec.several else 0
        self.progress, self.echo, self._log = progress, echo, echo
        # Scores of the ensemble start equal. Source: RS-Nets, section 3.3.
        self.alpha = torch.ones(len(network.settings), device=device, requires_grad=True)
        train = config.train
        groups = parameter_groups(self.network, self.alpha, train.decay)
        self.optimizer = make_optimizer(groups, train)
        self.state = TrainingState(self.network, self.alpha, self.optimizer)
        self.callbacks = Callbacks(callbacks if group.is_first else ())
        self.class_weights = class_weights
        task = self.task
        if class_weights is not None:
            task = task.weighted(class_weights.to(device))
        task = task.smoothed(train.label_smoothing) if train.label_smoothing else task
        self.teacher = teacher
        for norm in switchable_norms(self.network):
            norm.synced = train.sync_bn
        if train.norms == "shared":
            share_norms(self.network)
        self.step = Step(
            self.network, self.alpha, self.optimizer, train, device, task, teacher, group
        )
        if self.step.precision.scales:
            self.state.parts["scaler"] = self.step.precision
        self.average: Average | None = None
        if train.ema is not None:
            self.average = self.state.parts["average"] = Average(self.network, train.ema)
        self._readings = Readings(device)
        classes = len(source.classes)
        self.mixing = Mixing(train.mixup, train.cutmix, classes, train.seed, device)
        self._saved = SavedState(run, self.state, writes=group.is_first)
        self.checkpoints = Checkpoints(run, self.state, writes=group.is_first)
        self.ending = Ending(train, self.phase, self.state)
        self._estimate = Estimate(train.batch, len(source.val))
        # What the network started from, if this training has just begun.
        self.begun: Start | None = None
        self._compared = False
        self.unreadable = UnreadableLog()
        self.unreadable_val = UnreadableLog()
        self.state.data = [len(source.train), len(source.val), *source.classes]
        if self.phase.bits is not None:
            self.state.progress["bits"] = self.phase.bits

    @property
    def shown(self) -> SwitchableNetwork:
        """What is validated and saved: the network, or its average."""
        return self.network if self.average is None else self.average.network

    @property
    def end_line(self) -> str:
        """What to tell of a run that has ended."""
        return self.ending.line(self.task.main.title)

    def resume(self, folder: Path | None = None) -> None:
        """Go on from the run's saved state.

        Args:
            folder: where it is read from, if not from the run's own.
        """
        self._saved.load(folder)
        steps = max(1, len(self.source.train) // self.config.train.batch)
        if self.state.step > steps:
            raise CheckpointError(
                f"{self.run / runs.STATE}: is at step {self.state.step} of epoch "
                f"{self.state.epoch + 1}, which has {steps} steps; restore the run's "
                f"{runs.CONFIG}, or start a new run"
            )

    def continue_from(self, before: Trainer) -> None:
        """Go on from a phase of other bits."""
        carry_over(before.state, self.state)
        self._saved.follow(before._saved)
        if self.average is not None:  # levels of other bits are no average of these
            self.average.restart()

    def train(self, opening: Sequence[str] = ()) -> Evaluation | None:
        """Train to the end of the phase; its validation, or None if nothing was left to do.

        Args:
            opening: first lines of the log.
        Raises:
            KeyboardInterrupt: asked to stop; the state is saved.
            RsquantError: the loss or a tensor is not finite, images are unreadable, the disk is
                full. What was saved before is kept.
        """
        recorder: Recorder | Unrecorded = Unrecorded()
        if self.group.is_first:
            recorder = Recorder(self.run, self.state.epoch, self.echo)
        self._log = recorder.log
        last = None
        try:
            for line in opening:
                recorder.log(line)
            self._saved.restart_clock()
            loud = self.group.is_first
            with training_mode(self.network), deferred_interrupt(loud) as interrupt:
                self._calibrate(interrupt)
                # Machines that round differently have begun differently.
                self.group.copy_from_first(self.state.model.state_dict().values())
                while self.state.epoch < self.phase.end and not self.ending.is_patience_over:
                    last = self._epoch(recorder, interrupt)
                if self.ending.is_patience_over:
                    recorder.log(self.end_line)
                if not self.ending.is_finished:
                    last = self._reestimate(last, interrupt)
            count = self.unreadable.count + self.unreadable_val.count
            if count:
                recorder.log(f"{count} unreadable images were skipped, named in log.txt")
        except (RuntimeError, MemoryError, OSError) as error:
            # In the middle of a step, whose network is neither the old nor the new one.
            if refused := refusal(error):
                raise RsquantError(f"train: {refused}; {self._saved}") from error
            raise
        finally:
            recorder.close()
        return last

    def _calibrate(self, interrupt: Interrupt) -> None:
        """Start bases, and statistics of a network with weights, from images, once in a phase."""
        state, images = self.state, self.config.train.calibration
        if self.phase.begin:  # the published start is one for fresh weights
            images = images or TrainConfig.calibration
        count = min(images, len(self.source.train))
        if state.epoch > self.phase.begin or state.step or "calibrated" in state.progress:
            return
        if self.begun is not None:
            self._log(f"start from  {self.begun}")
        if count < 2 or not (self.begun or self.network.spec.low_bit_activations):
            return
        self.progress.start("calibrate", 1, self.config.train.epochs, 0, count)
        # Each process looks at all of them, so that bases start as those of one process do.
        batch = next(iter(self._batches(count, workers=0, group=ALONE)))
        state.progress["calibrated"] = len(batch.labels)
        for line in fit_to_images(self.network, self.begun, batch, self._unshared_batches):
            self._log(line)
        self.progress.advance(count, "")
        if self.group.is_first:
            state.save(self.run / runs.STATE)
        self._stop_if_asked(interrupt)

    def _batches(self, size: int, workers: int, group: ProcessGroup, skip: int = 0) -> Batches:
        """This epoch's batches of so many images, the parts of this process of a group."""
        config = self.config
        return training_batches(
            self.source.train,
            self.network.resolutions,
            size,
            self.state.epoch,
            config.train.seed,
            workers,
            config.data.area,
            config.data.flip,
            config.data.crop,
            skip=skip,
            samples=self.task,
            augment=config.data.augment,
            rank=group.rank,
            world=group.world,
        )

    def _unshared_batches(self) -> Batches:
        """This epoch's batches, of which every process looks at all, and has the same bits then."""
        return self._batches(self.config.train.batch, self.config.data.workers, ALONE)

    def _epoch(self, recorder: Recorder | Unrecorded, interrupt: Interrupt) -> Evaluation:
        config, state = self.config, self.state
        progress = state.progress
        workers, group = config.data.workers, self.group
        batches = self._batches(config.train.batch, workers, group, skip=state.step)
        steps = state.step + len(batches)
        total = steps * config.train.batch
        epoch = state.epoch + 1
        sums = progress.setdefault("sums", {"images": 0, "seconds": 0.0})
        self.progress.start("train", epoch, config.train.epochs, sums["images"], total)
        started = time.monotonic() - sums["seconds"]
        for batch in self._loaded(batches):
            images = self._count(batch, interrupt)
            if images:
                rate = self._rate(state.epoch + state.step / steps)
                batch = self.mixing(batch, state.epoch, state.step)
                self._step(batch, images, rate, sums)
            state.step += 1
            before, sums["seconds"] = sums["seconds"], time.monotonic() - started
            epochs = config.train.epochs - epoch
            left = steps - state.step + epochs * steps
            if line := self._estimate.step(sums["seconds"] - before, left, epochs + 1):
                recorder.log(line)
            self.progress.advance(images, f"loss {mean(sums, 'loss'):.3f}")
            self._pause(interrupt)
        self._read(sums)
        if not sums["images"]:
            raise DataError("train: no batch of this epoch had two readable images")
        self._check_finite()
        validation = self._validate(interrupt)
        for setting, metric in zip(self._settings, validation.paths, strict=True):
            loss = metric.figures()["loss"]
            if not math.isfinite(loss):
                what = f"the validation loss at {setting} became {loss}"
                raise self._diverged(what, state.step)
        rate = self._rate(state.epoch + (steps - 1) / steps)
        scores = torch.softmax(self.alpha.detach(), 0).tolist()
        row = epoch_row(epoch, rate, sums, validation, self._settings, scores)
        recorder.epoch(row)
        self.callbacks.on_epoch(epoch, row)
        recorder.log(summary(row, self.task, self._settings))
        if group.is_first:
            record_levels(self.run, self.shown, epoch)
        self.ending.count(self.checkpoints.keep(self.shown, validation.mean))
        self._check_equal()
        del progress["sums"]
        state.epoch, state.step = epoch, 0
        self._saved.save()
        return validation

    def _reestimate(self, last: Evaluation | None, interrupt: Interrupt) -> Evaluation | None:
        """At the end, save the network with statistics of its own, if that was asked for."""
        if not self.ending.estimates_statistics:
            return last
        before = last or self._validate(interrupt)
        with self._kept_if_loading_fails():
            network, images = with_own_statistics(
                self.shown,
                self.network,
                self._unshared_batches(),
                self.config.train.bn_reestimate,
            )
        after = self._validate(interrupt, network)
        self._log(f"BatchNorm statistics of {images} images  {compared(before, after)}")
        self.checkpoints.keep(network, after.mean)
        self.state.progress["reestimated"] = self.state.epoch
        self._saved.save()
        return after

    def _loaded(self, batches: Batches) -> Iterator[Batch]:
        """Batches. Where they cannot be loaded, every step that was done is saved first."""
        with self._kept_if_loading_fails():
            iterator = iter(batches)
        while True:
            with self._kept_if_loading_fails():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _kept_if_loading_fails(self) -> Iterator[None]:
        """Between two steps: what ends the training is for the machine, so nothing is lost.

        Raises:
            RsquantError: in place of what the machine did, with how to go on.
        """
        try:
            yield
        except (RsquantError, RuntimeError, MemoryError, OSError) as error:
            line = str(error) if isinstance(error, RsquantError) else refusal(error)
            if line is None:
                raise
            if not self._saved.is_current:
                self._save()
            kind = type(error) if isinstance(error, RsquantError) else RsquantError
            raise kind(
                f"{line}; the state is saved, continue with `resume({str(self.run)!r})`"
            ) from error

    def _rate(self, epoch: float) -> float:
        train = self.config.train
        return learning_rate(train.schedule, train.lr, epoch, train.epochs, train.warmup)

    def _count(self, batch: Batch, interrupt: Interrupt) -> int:
        """The images of all processes' parts of a batch; 0 where there are too few for a step.

        Notes unreadable ones, and stops if a process was asked to.
        """
        group, own = self.group, len(batch.labels)
        with self._kept_if_loading_fails():
            images, few, lost, asked = group.sum(
                own, own < 2, len(batch.unreadable), interrupt.asked
            )
            unreadable = batch.unreadable
            if lost and group.world > 1:
                unreadable = [(a, b) for part in group.gather(unreadable) for a, b in part]
        self.unreadable.add(unreadable, self._log)
        self.unreadable.check(len(self.source.train))
        if asked and group.world > 1:
            self._stop()
        return 0 if few else int(images)

    def _step(self, batch: Batch, images: int, rate: float, sums: dict[str, Any]) -> None:
        state = self.state
        seed_step(self.group, self.config.train.seed, state.epoch, state.step)
        rows = rows_of_step(self._sampled, self.config.train.seed, state.epoch, state.step)
        figures = self.step(batch.images, batch.labels, rate, len(batch.labels) / images, rows)
        if self.average is not None:
            self.average.update()
        self._readings.add(state.step + 1, images, figures)
        if self._readings.are_due:
            self._read(sums)
        if not self._compared:
            self._check_equal()

    def _read(self, sums: dict[str, Any]) -> None:
        """Add up what the steps since the last time gave; they ran without being waited for."""
        for step, images, figures in self._readings.read():
            if not math.isfinite(figures["loss"]):
                raise self._diverged(f"the loss became {figures['loss']}", step)
            add_step(sums, figures, images)
            self.callbacks.on_step(self.state.epoch + 1, step, figures)

    def _check_equal(self) -> None:
        """Raise ModelError if processes do not have the same network any more."""
        own = [("alpha", self.alpha), *self.network.state_dict().items()]
        check_equal(self.group, own)
        self._compared = True

    def _validate(
        self, interrupt: Interrupt, network: SwitchableNetwork | None = None
    ) -> Evaluation:
        split, config = self.source.val, self.config
        epoch = self.state.epoch + 1
        self.progress.start("validate", epoch, config.train.epochs, 0, len(split))

        def tick(images: int) -> None:
            self.progress.advance(images, "")
            if self.group.world > 1 and self.group.sum(interrupt.asked)[0]:
                self._stop()
            self._pause(interrupt)

        with self._kept_if_loading_fails():
            return evaluate(
                self.shown if network is None else network,
                split,
                ensemble=lambda outputs: ensemble_logits(outputs, self.alpha),
                batch=min(config.train.batch, 64),
                workers=config.data.workers,
                device=self.device,
                unreadable=self.unreadable_val,
                log=self._log,
                tick=tick,
                group=self.group,
            )

    def _check_finite(self) -> None:
        """Raise RsquantError if a tensor is not finite: it must not replace what was saved."""
        if bad := self.state.bad():
            raise self._diverged(bad, self.state.step)

    def _diverged(self, what: str, step: int) -> RsquantError:
        return RsquantError(
            f"train: {what} in epoch {self.state.epoch + 1}, step {step}; {self._saved}; "
            "start a new run with a lower `lr` or a `warmup`"
        )

    def _save(self) -> None:
        """Save the state, if it is finite."""
        if "sums" in self.state.progress:
            self._read(self.state.progress["sums"])
        self._check_finite()
        self._saved.save()

    def _pause(self, interrupt: Interrupt) -> None:
        """Between two steps: stop if that was asked for, save the state if it is time."""
        self._stop_if_asked(interrupt)
        if self._saved.is_due(self.config.train.save_minutes):
            self._save()

    def _stop_if_asked(self, interrupt: Interrupt) -> None:
        # Several processes stop where all know of it.
        if interrupt.asked and self.group.world == 1:
            self._stop()

    def _stop(self) -> None:
        self._save()
        self._log(f"stopped; continue with `resume({str(self.run)!r})`")
        raise KeyboardInterrupt
