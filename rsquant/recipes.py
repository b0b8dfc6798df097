"""The published recipes, and the built-in set's."""

from __future__ import annotations

import dataclasses

from rsquant.config import DataConfig, ModelConfig, RunConfig, TrainConfig


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


def summary(config: RunConfig) -> str:
    """A configuration in one line."""
    model, train = config.model, config.train
    individual = f", individual at {model.individual}" if model.individual is not None else ""
    return (
        f"{train.epochs} epochs, batch {train.batch}, lr {train.lr:g} {train.schedule}, "
        f"width {model.width}, resolutions {', '.join(map(str, model.resolutions))}{individual}"
    )
