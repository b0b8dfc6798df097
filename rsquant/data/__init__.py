"""Images: sources, the built-in set, crops, batches."""

from rsquant.packages import require

require(__name__, "train", "torch", "PIL")

from rsquant.data.images import UnreadableImage, decode
from rsquant.data.loader import Batch, UnreadableLog, evaluation_batches, training_batches
from rsquant.data.sources import open_source
from rsquant.data.split import Source, Split
from rsquant.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    evaluation_crop,
    normalise,
    training_crop,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Batch",
    "Source",
    "Split",
    "UnreadableImage",
    "UnreadableLog",
    "decode",
    "evaluation_batches",
    "evaluation_crop",
    "normalise",
    "open_source",
    "training_batches",
    "training_crop",
]
