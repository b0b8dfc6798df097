"""Networks by name."""

from rsquant.models.factory import ARCHITECTURES, build, create

__all__ = ["ARCHITECTURES", "build", "create"]
