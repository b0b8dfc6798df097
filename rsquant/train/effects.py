"""Which settings of a run change nothing beside its others, and why."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

from rsquant.config import RunConfig
from rsquant.errors import ConfigError
from rsquant.models.factory import own_fields
from rsquant.nn.precision import parse_layer_bits, parse_layer_quantizer
from rsquant.nn.spec_effects import Idle, idle_fields
from rsquant.nn.switchable import ModelSpec
from rsquant.settings import checked_bits, checked_widths
from rsquant.tasks import by_name
from rsquant.train.bits_schedule import phases

# Beside the defaults: what says of something absent that it is absent.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "model.stem": ("own",),
    "model.block": ("own",),
    "train.momentum": (0.0,),
    "train.calibration": (0,),
}


def idle_settings(config: RunConfig) -> dict[str, Idle]:
    """The settings that change nothing, whatever they are: section.key -> why.

    Raises:
        ConfigError: patterns, bits, widths or a task that cannot be read.
    """
    model = config.model
    bits = checked_bits(model.bits)
    wbits, abits = bits[0] if bits else (model.wbits, model.abits)
    spec = ModelSpec(
        model.arch,
        wbits,
        abits,
        (),
        0,
        layer_bits=parse_layer_bits(model.layer_bits),
        layer_quantizer=parse_layer_quantizer(model.layer_quantizer),
        bits=bits,
    )
    found = {f"model.{name}": idle for name, idle in idle_fields(spec).items()}
    if bits:
        of_bits = Idle("the first of the `bits` says it")
        found |= {"model.wbits": of_bits, "model.abits": of_bits}
    for name, why in own_fields(model.arch).items():
        found[f"model.{name}"] = Idle(why)
    sizes = len(model.resolutions) if model.individual is None else 1
    if by_name(model.task).one_crop:
        found["data.crop"] = Idle(f"all sizes show one crop, as the task '{model.task}' needs it")
    elif sizes == 1:
        found["data.crop"] = Idle("says how sizes share crops, and this network has one size")
    if model.individual is not None and model.resolutions == (model.individual,):
        found["model.individual"] = Idle("the `resolutions` are this size alone")
    found |= _of_several(config, spec, sizes)
    found |= _of_epochs(config)
    found |= _of_optimizer(config)
    found |= _of_teacher(config, sizes)
    return found


def _of_several(config: RunConfig, spec: ModelSpec, sizes: int) -> dict[str, Idle]:
    """Settings of networks that have several of something."""
    train, found = config.train, {}
    at_bits = sizes * max(1, len(checked_widths(config.model.widths)))
    if at_bits * max(1, len(spec.bits)) == 1:
        why = "is between several sizes, and this network has one"
        found = {"train.distillation": Idle(why), "train.norms": Idle(why)}
    if not spec.low_bit_activations:
        remedy = "give `abits` 1 to 4, or leave it out"
        idle = Idle("is of low-bit activations, and this network has none", remedy)
        found["train.basis_updates"] = idle
        if train.init is None:
            found["train.calibration"] = idle
    elif at_bits == 1 and len({abits for _, abits in spec.bits}) == len(spec.bits):
        found["train.basis_updates"] = Idle("each basis is moved at one size alone")
    if train.bits_schedule and "," not in train.bits_schedule:
        found["train.bits_schedule"] = Idle("has one phase", "give more, 4,3,2, or leave it out")
    return found


def _of_epochs(config: RunConfig) -> dict[str, Idle]:
    """Of `patience`: the first epoch of the last bits is the best so far, so one more must pass."""
    train, epochs = config.train, config.train.epochs
    with suppress(ConfigError):  # a schedule that does not fit is refused by itself
        last = phases(config)[-1]
        epochs = last.end - last.begin
    if train.patience is None or train.patience + 1 < epochs:
        return {}
    why = f"ends training after {train.patience + 1} epochs or more, and there are {epochs}"
    return {"train.patience": Idle(why, "give less, or leave it out")}


def _of_optimizer(config: RunConfig) -> dict[str, Idle]:
    train, found = config.train, {}
    if train.optimizer in ("adam", "adamw"):
        why = f"is of SGD, and the `optimizer` is {train.optimizer}"
        remedy = "leave it out, or give `optimizer='sgd'`"
        found = {"train.momentum": Idle(why, remedy), "train.nesterov": Idle(why, remedy)}
    elif train.optimizer == "sgd":
        why = "is of Adam and AdamW, and the `optimizer` is sgd"
        found["train.betas"] = Idle(why, "leave it out, or give `optimizer='adam'`")
        if train.momentum == 0:
            why = "is a kind of momentum, and the `momentum` is 0"
            found["train.nesterov"] = Idle(why, "leave out one of them")
    if train.weight_decay == 0:
        found["train.decay"] = Idle("says what decays, and the `weight_decay` is 0")
    return found


def _of_teacher(config: RunConfig, sizes: int) -> dict[str, Idle]:
    train, found = config.train, {}
    if train.teacher is None:
        idle = Idle("is of a `teacher`, and there is none", "give one, or leave it out")
        found = {f"train.{name}": idle for name in ("teacher_arch", "teacher_at", "labels")}
    elif sizes == 1:
        found["train.teacher_at"] = Idle("the network has one size")
    if train.teacher is not None and train.labels == 0:
        idle = Idle("is of the labels' loss, whose weight `labels` is 0")
        found |= {"train.label_smoothing": idle, "train.class_weights": idle}
    return found


def is_neutral(key: str, value: Any) -> bool:
    """Whether a value of section.key asks for nothing: the default, or that there be none of it."""
    return value == usual(key) or value in _NEUTRAL.get(key, ())


def value_of(config: RunConfig, key: str) -> Any:
    """What section.key is."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def usual(key: str) -> Any:
    """The default of section.key."""
    return value_of(RunConfig(), key)


def with_usual(config: RunConfig, key: str) -> RunConfig:
    """The configuration with section.key at its default."""
    section, _, name = key.partition(".")
    part = dataclasses.replace(getattr(config, section), **{name: usual(key)})
    return dataclasses.replace(config, **{section: part})


def check_effects(config: RunConfig) -> None:
    """Raise ConfigError for a setting that asks for something and changes nothing.

    Not for runs that are continued, which may have any.
    """
    for key, idle in idle_settings(config).items():
        if not is_neutral(key, value_of(config, key)):
            raise ConfigError(f"{key.partition('.')[2]}: {idle.why}; {idle.remedy}")
