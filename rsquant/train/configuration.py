"""The configuration that a recipe, a file and what is given besides mean together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsquant.config import RunConfig, from_dict, read_settings
from rsquant.errors import ConfigError
from rsquant.recipes import builtin_recipe, paper_recipe, summary
from rsquant.settings import checked_bits
from rsquant.train.effects import idle_settings, is_neutral, value_of, with_usual

Settings = Mapping[str, Mapping[str, Any]]

# Of the rate for SGD: Adam's steps have the size of its rate, whatever the gradient's.
_ADAM_SHARE = 0.01


class Part(NamedTuple):
    """Settings from one place.

    Attributes:
        where: what messages call it.
        settings: section -> key -> value.
        typed: whether each is there because the user means it now, as in a command line. Files may
            name all there are.
    """

    where: str
    settings: Settings
    typed: bool = False


def combined(base: RunConfig, parts: Sequence[Part]) -> tuple[RunConfig, list[str]]:
    """A configuration changed by parts, each over those before it.

    A setting that a later part leaves without effect is left out. One that has none in its own part
    is refused. With Adam the recipe's rate is a hundredth, unless a part has one.

    Args:
        base: a recipe for SGD.
    Returns:
        The configuration, and a line for each setting of a part that is left out.
    Raises:
        ConfigError: a wrong key, type or range; a setting that changes nothing.
    """
    # What each part says with those before it; the recipe is that of the network they end with, and
    # no part leaves its epochs without effect.
    usual = RunConfig()
    epochs = base.train.epochs
    alone = [dataclasses.replace(usual, train=dataclasses.replace(usual.train, epochs=epochs))]
    config, lines = base, []
    for part in parts:
        settings: dict[str, Any] = dict(part.settings)
        alone.append(from_dict(settings, part.where, alone[-1]))
        config = from_dict(settings, part.where, config)
    for key, idle in idle_settings(config).items():
        value = value_of(config, key)
        last = _last(parts, key)
        if last is not None:
            where, typed = parts[last].where, parts[last].typed
            asks = typed or not is_neutral(key, value)
            if asks and key in idle_settings(alone[last + 1]):
                raise ConfigError(f"{where}: {key}: {idle.why}; {idle.remedy}")
        if is_neutral(key, value):
            continue
        config = with_usual(config, key)
        if last is not None:
            text = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"       left out of {where}: {key} {text}: {idle.why}")
    if _last(parts, "train.lr") is None:
        config = _with_rate(config, _share(config.train.optimizer))
    return config, lines


def _last(parts: Sequence[Part], key: str) -> int | None:
    """Which part has the last word on section.key; None: none has it."""
    section, _, name = key.partition(".")
    having = [i for i, part in enumerate(parts) if name in part.settings.get(section, {})]
    return having[-1] if having else None


def network_of(model: Mapping[str, Any]) -> tuple[str, int, int]:
    """Architecture and bits that a recipe is chosen by, of a section `model`."""
    bits = checked_bits(model.get("bits") or ())
    wbits, abits = bits[0] if bits else (model.get("wbits", 2), model.get("abits", 2))
    return model.get("arch", "resnet50"), wbits, abits


def _share(optimizer: str) -> float:
    return 1.0 if optimizer == "sgd" else _ADAM_SHARE


def _with_rate(config: RunConfig, factor: float) -> RunConfig:
    if factor == 1:
        return config
    rate = float(f"{factor * config.train.lr:.3g}")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, lr=rate))


def _for_optimizer(
    config: RunConfig, file: Settings, where: str, changes: Settings
) -> tuple[RunConfig, list[str]]:
    """The rate of a file as one for another optimizer than the file's, and a line that says so."""
    train, given = file.get("train", {}), changes.get("train", {})
    if "lr" not in train or "lr" in given:
        return config, []
    meant_for = train.get("optimizer", "sgd")
    changed = _with_rate(config, _share(config.train.optimizer) / _share(meant_for))
    if changed == config:
        return config, []
    was, rate = config.train.lr, changed.train.lr
    return changed, [f"       lr {rate:g}: {where} has {was:g}, which is for {meant_for}"]


def compose(
    file: Path | None,
    changes: dict[str, dict[str, Any]],
    recipe: tuple[RunConfig, str] | None = None,
) -> tuple[RunConfig, list[str]]:
    """The configuration meant by an optional YAML file and by what was given besides it.

    The base is the published recipe of the architecture, or the small one of the built-in set
    when no data source is named; the file goes over it, `changes` over the file. A recipe's warm-up
    keeps its share of the epochs, as its schedule does, unless it is given too. With another
    optimizer than the recipe's or the file's the rate is one for it, unless it is given too. A
    setting of recipe or file that has no effect with the changes is left out; one that has none
    where it is given is refused.

    Args:
        recipe: in place of the base, with the line that tells of it.
    Returns:
        The configuration, and lines that tell the user which choices were made.
    Raises:
        ConfigError: a wrong setting, or one without effect.
    """
    raw = read_settings(file) if file is not None else {}
    parts = [Part(str(file), raw)] if raw else []
    parts += [Part("settings", changes, typed=True)] if changes else []
    for part in parts:
        from_dict(dict(part.settings), part.where)  # names a wrong key first
    source = {**raw.get("data", {}), **changes.get("data", {})}.get("source", "shapes")
    names = network_of({**raw.get("model", {}), **changes.get("model", {})})
    if source == "shapes":
        base = builtin_recipe(*names)
        lines = [f"data   built-in generated set; its small recipe: {summary(base)}"]
        if file is None:
            lines.append("       train on your own images with `data=DIR` (with train/ and val/)")
    elif recipe is not None:
        base, line = recipe
        lines = [line]
    else:
        base = paper_recipe(*names)
        lines = [f"recipe of the paper: {summary(base)}"]
    config, left_out = combined(base, parts)
    if _last(parts, "train.warmup") is None:
        warmup = base.train.warmup * config.train.epochs / base.train.epochs
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, warmup=warmup))
    config, rate = _for_optimizer(config, raw, str(file), changes)
    if config != base:
        lines.append(f"       as configured: {summary(config)}")
    return config, lines + left_out + rate
