"""Which settings can be trained: everything that a configuration's types and ranges do not say."""

from __future__ import annotations

from rsquant import config as configs
from rsquant.choices import (
    AMP,
    AUGMENTATIONS,
    BASIS_UPDATES,
    CROPS,
    DECAYS,
    NORMS,
    TEACHER_SIZES,
    listed,
)
from rsquant.config import RunConfig, TrainConfig
from rsquant.device import pick_device
from rsquant.errors import ConfigError
from rsquant.nn.precision import parse_layer_bits, parse_layer_quantizer
from rsquant.quantizers import kind
from rsquant.quantizers.weight_norm import check_norm
from rsquant.settings import checked_bits, checked_widths
from rsquant.tasks import by_name
from rsquant.train.bits_schedule import phases
from rsquant.train.class_weights import check_class_weights
from rsquant.train.losses import distillation_paths
from rsquant.train.optimizer import check_optimizer
from rsquant.train.schedule import learning_rate


def check(config: RunConfig) -> None:
    """Raise ConfigError for settings that cannot be trained, before anything is written."""
    # Types and ranges, also of a RunConfig that was read from no file.
    configs.from_dict(configs.to_dict(config))
    train = config.train
    _check_data(config)
    _check_model(config)
    _check_names(train)
    _check_batches(train)
    check_optimizer(train)
    check_class_weights(train.class_weights)
    if train.label_smoothing:
        by_name(config.model.task).smoothed(train.label_smoothing)
    phases(config)
    distillation_paths(1, train.distillation)
    learning_rate(train.schedule, train.lr, 0.0, train.epochs, train.warmup)
    if train.device != "auto":
        pick_device(train.device)


def _check_data(config: RunConfig) -> None:
    data = config.data
    if not 0 < data.area[0] <= data.area[1] <= 1:
        raise ConfigError(f"area: must be two shares 0 < low <= high <= 1, got {data.area}")
    _check_name("crop", data.crop, CROPS)
    _check_name("augment", data.augment, AUGMENTATIONS)
    train = config.train
    changes = {"mixup": train.mixup, "cutmix": train.cutmix, "augment": data.augment != "none"}
    asked = [name for name, value in changes.items() if value]
    if asked and not by_name(config.model.task).whole_image_labels:
        raise ConfigError(
            f"{asked[0]}: changes images as a whole, which the labels of the task "
            f"'{config.model.task}' do not follow; leave it out"
        )


def _check_model(config: RunConfig) -> None:
    model = config.model
    by_name(model.task)
    kind(model.quantizer)
    check_norm(model.weight_norm)
    parse_layer_bits(model.layer_bits)
    parse_layer_quantizer(model.layer_quantizer)
    checked_widths(model.widths)
    if checked_bits(model.bits) and config.train.bits_schedule:
        raise ConfigError(
            "bits_schedule: phases of bits cannot be combined with several settings of `bits`; "
            "leave one out"
        )


def _check_names(train: TrainConfig) -> None:
    _check_name("decay", train.decay, DECAYS)
    _check_name("basis_updates", train.basis_updates, BASIS_UPDATES)
    _check_name("norms", train.norms, NORMS)
    _check_name("amp", train.amp, AMP)
    _check_name("teacher_at", train.teacher_at, TEACHER_SIZES)
    if train.norms == "shared" and (train.bn_reestimate or train.init is not None):
        what = "bn_reestimate" if train.bn_reestimate else "init"
        raise ConfigError(
            f"{what}: estimates statistics of each size, which shared BatchNorms do not have; "
            f"leave out `{what}` or `norms`"
        )


def _check_name(what: str, given: str, names: tuple[str, ...]) -> None:
    if given not in names:
        raise ConfigError(f"{what}: must be {listed(names)}, got '{given}'")


def _check_batches(train: TrainConfig) -> None:
    if train.calibration < 0 or train.calibration == 1:
        raise ConfigError(
            f"calibration: must be 2 or more images, or 0 for none, got {train.calibration}"
        )
    if train.accumulate > train.batch // 2:
        raise ConfigError(
            f"accumulate: must leave 2 images or more to a part of the batch of {train.batch}, "
            f"so at most {train.batch // 2}, got {train.accumulate}"
        )
