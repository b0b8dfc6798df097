"""Learned quantizers."""

from rsquant.quantizers.lq import LQActivationQuantizer, LQWeightQuantizer

__all__ = ["LQActivationQuantizer", "LQWeightQuantizer"]
