"""Networks by name."""

from rsquant.packages import require

require(__name__, "train", "torch", "torchvision", "safetensors")

from rsquant.models.factory import ARCHITECTURES, build, create

__all__ = ["ARCHITECTURES", "build", "create"]
