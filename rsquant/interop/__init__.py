"""Trained networks of other programs, as checkpoints of ours."""

from rsquant.packages import require

require(__name__, "train", "torch", "torchvision", "safetensors")
