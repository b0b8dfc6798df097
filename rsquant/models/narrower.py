"""What a network of one of our kinds is called at a share of its width."""

from __future__ import annotations

from typing import Any

from rsquant.errors import ConfigError
from rsquant.models import mobilenet_v2, refinenet, resnet
from rsquant.nn.switchable import ModelSpec


def fields_at(spec: ModelSpec, share: float) -> dict[str, Any]:
    """The fields of a ModelSpec that a network with this share of the channels has.

    Of a ResNet (and a RefineNet on one) the channels of the first stage, to the nearest whole
    number; of a MobileNetV2 the multiplier in its name.

    Raises:
        ConfigError: a network without widths, or a width that it cannot have.
    """
    if (width := mobilenet_v2.width_of(spec.arch)) is not None:
        return {"arch": mobilenet_v2.named(round(width * share, 9))}
    if spec.arch not in resnet.LAYERS and refinenet.variant(spec.arch) is None:
        raise ConfigError(
            f"widths: {spec.arch} is a network of fixed channels, whose layers cannot be slimmed; "
            f"use {', '.join(resnet.LAYERS)}, {mobilenet_v2.NAME}, or leave widths out"
        )
    return {"width": max(1, round(spec.width * share))}
