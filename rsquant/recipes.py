"""The published recipes and the built-in set's, and what a file and flags change in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rsquant.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    from_dict,
    read_settings,
)

# Of the rate for SGD: Adam's steps have the size of its rate, whatever the gradient's.
ADAM_SHARE = 0.01


def paper_recipe(arch: str, wbits: int, abits: int) -> RunConfig:
    """The published settings of an architecture (RS-Nets, section 4.1).

    Quantized networks follow LQ-Nets: its step schedule, Nesterov momentum, and weight decay on
    weights alone. Float ones follow the float code: a cosine, plain momentum, decay on all
    parameters. MobileNetV2 trains 150 epochs from 0.05 with weight decay 4e-5 and a cosine; so do
    its kin, MNASNet and EfficientNet. Nobody has published a low-bit recipe of theirs: ours adds
    five epochs of warm-up.
    """
    quantized = wbits < 32 or abits < 32
    train = TrainConfig(
        schedule="step" if quantized else "cosine",
        nesterov=quantized,
        decay="weights" if quantized else "all",
    )
    if _inverted_residuals(arch):
        train = dataclasses.replace(
            train,
            epochs=150,
            lr=0.05,
            weight_decay=4e-5,
            schedule="cosine",
            warmup=5.0 if quantized else 0.0,
        )
    return RunConfig(ModelConfig(arch=arch, wbits=wbits, abits=abits), DataConfig(), train)


def _inverted_residuals(arch: str) -> bool:
    """Whether a network is MobileNetV2's kin, which trains at smaller rates than a ResNet."""
    return any(name in arch for name in ("mobilenet", "mnasnet", "efficientnet"))


def builtin_recipe(arch: str, wbits: int, abits: int) -> RunConfig:
    """A small recipe for the built-in generated set: minutes on two cores."""
    # A quarter of the published width; networks from torchvision have no such setting.
    width = 16 if arch.startswith("resnet") else 64
    return RunConfig(
        ModelConfig(arch=arch, wbits=wbits, abits=abits, resolutions=(96, 72, 48), width=width),
        DataConfig(source="shapes", area=(0.5, 1.0), train_images=3000, val_images=600),
        TrainConfig(
            epochs=8,
            batch=32,
            lr=0.02 if _inverted_residuals(arch) else 0.1,
            nesterov=True,
            weight_decay=5e-4,
            decay="weights" if wbits < 32 or abits < 32 else "all",
            schedule="cosine",
            warmup=1.0,
        ),
    )


def compose(
    file: Path | None,
    changes: dict[str, dict[str, Any]],
    recipe: tuple[RunConfig, str] | None = None,
) -> tuple[RunConfig, list[str]]:
    """The configuration meant by an optional YAML file and by what was given besides it.

    The base is the published recipe of the architecture, or the small one of the built-in set
    when no data source is named; the file goes over it, `changes` over the file. A recipe's warm-up
    keeps its share of the epochs, as its schedule does, unless it is given too. With Adam the rate
    is a hundredth of a recipe's, unless it is given.

    Args:
        recipe: in place of the base, with the line that tells of it.
    Returns:
        The configuration, and lines that tell the user which choices were made.
    """
    raw = read_settings(file) if file is not None else {}
    given = [part for part in (raw, changes) if part]
    for part in given:
        from_dict(part, str(file) if part is raw else "settings")  # names a wrong key first
    model = {**raw.get("model", {}), **changes.get("model", {})}
    source = {**raw.get("data", {}), **changes.get("data", {})}.get("source", "shapes")
    names = (model.get("arch", "resnet50"), model.get("wbits", 2), model.get("abits", 2))
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
    config = base
    if raw:
        config = from_dict(raw, str(file), config)
    if changes:
        config = from_dict(changes, "settings", config)
    if not any("warmup" in part.get("train", {}) for part in given):
        warmup = base.train.warmup * config.train.epochs / base.train.epochs
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, warmup=warmup))
    if config.train.optimizer != "sgd":
        keys = {key for part in given for key in part.get("train", {})}
        config = dataclasses.replace(config, train=_for_adam(config.train, keys))
    if config != base:
        lines.append(f"       as configured: {summary(config)}")
    return config, lines


def _for_adam(train: TrainConfig, given: set[str]) -> TrainConfig:
    """A recipe for SGD as one for Adam, where nothing else was given."""
    if "lr" not in given:
        train = dataclasses.replace(train, lr=float(f"{ADAM_SHARE * train.lr:.3g}"))
    return train if "nesterov" in given else dataclasses.replace(train, nesterov=False)


def summary(config: RunConfig) -> str:
    """A configuration in one line."""
    model, train = config.model, config.train
    individual = f", individual at {model.individual}" if model.individual is not None else ""
    return (
        f"{train.epochs} epochs, batch {train.batch}, lr {train.lr:g} {train.schedule}, "
        f"width {model.width}, resolutions {', '.join(map(str, model.resolutions))}{individual}"
    )
