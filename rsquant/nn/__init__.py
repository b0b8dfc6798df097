"""Layers whose weights are low-bit and whose BatchNorms belong to a resolution."""

from rsquant.packages import require

require(__name__, "train", "torch")

from rsquant.nn.conversion import Conversion
from rsquant.nn.norm import SwitchableBatchNorm1d, SwitchableBatchNorm2d
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork

__all__ = [
    "Conversion",
    "ModelSpec",
    "QuantConv2d",
    "QuantLinear",
    "SwitchableBatchNorm1d",
    "SwitchableBatchNorm2d",
    "SwitchableNetwork",
]
