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
from rsquant.config import RunConfig
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
    train, data = config.train, config.data
    check_optimizer(train)
    if train.label_smoothing:
        by_name(config.model.task).smoothed(train.label_smoothing)
    if not 0 < data.area[0] <= data.area[1] <= 1:
        raise ConfigError(f"area: must be two shares 0 < low <= high <= 1, got {data.area}")
    if data.crop not in CROPS:
        raise ConfigError(f"crop: must be {listed(CROPS)}, got '{data.crop}'")
    if data.augment not in AUGMENTATIONS:
        raise ConfigError(f"augment: must be {listed(AUGMENTATIONS)}, got '{data.augment}'")
    changes = {"mixup": train.mixup, "cutmix": train.cutmix, "augment": data.augment != "none"}
    asked = [name for name, value in changes.items() if value]
    if asked and not by_name(config.model.task).whole_image_labels:
        raise ConfigError(
            f"{asked[0]}: changes images as a whole, which the labels of the task "
            f"'{config.model.task}' do not follow; leave it out"
        )
    if train.decay not in DECAYS:
        raise ConfigError(f"decay: must be {listed(DECAYS)}, got '{train.decay}'")
    if train.calibration < 0 or train.calibration == 1:
        raise ConfigError(
            f"calibration: must be 2 or more images, or 0 for none, got {train.calibration}"
        )
    if train.basis_updates not in BASIS_UPDATES:
        names = listed(BASIS_UPDATES)
        raise ConfigError(f"basis_updates: must be {names}, got '{train.basis_updates}'")
    if train.norms not in NORMS:
        raise ConfigError(f"norms: must be {listed(NORMS)}, got '{train.norms}'")
    if train.norms == "shared" and (train.bn_reestimate or train.init is not None):
        what = "bn_reestimate" if train.bn_reestimate else "init"
        raise ConfigError(
            f"{what}: estimates statistics of each size, which shared BatchNorms do not have; "
            f"leave out `{what}` or `norms`"
        )
    check_class_weights(train.class_weights)
    if train.amp not in AMP:
        raise ConfigError(f"amp: must be {listed(AMP)}, got '{train.amp}'")
    if train.accumulate > train.batch // 2:
        raise ConfigError(
            f"accumulate: must leave 2 images or more to a part of the batch of {train.batch}, "
            f"so at most {train.batch // 2}, got {train.accumulate}"
        )
    if train.teacher_at not in TEACHER_SIZES:
        raise ConfigError(f"teacher_at: must be {listed(TEACHER_SIZES)}, got '{train.teacher_at}'")
    if train.teacher_arch is not None and train.teacher is None:
        raise ConfigError("teacher_arch: is that of a `teacher`; give one, or leave it out")
    if train.labels < 1 and train.teacher is None:
        raise ConfigError("labels: a weight below 1 needs a `teacher`; give one, or leave it out")
    by_name(config.model.task)
    kind(config.model.quantizer)
    check_norm(config.model.weight_norm)
    parse_layer_bits(config.model.layer_bits)
    parse_layer_quantizer(config.model.layer_quantizer)
    checked_widths(config.model.widths)
    if checked_bits(config.model.bits) and train.bits_schedule:
        raise ConfigError(
            "bits_schedule: phases of bits cannot be combined with several settings of `bits`; "
            "leave one out"
        )
    phases(config)
    distillation_paths(1, train.distillation)
    learning_rate(train.schedule, train.lr, 0.0, train.epochs, train.warmup)
    if train.device != "auto":
        pick_device(train.device)
