"""The names that settings may have, for the library and, without torch, for the command line.

What a name stands for is beside what uses it; where that is a table there (stems, grids,
quantizers, forms, networks) a test keeps the names here and there alike.
"""

from __future__ import annotations

# Of a network. torchvision:NAME is one too.
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")
# "post": post-activation, for float activations; "preact": the published pre-activation block, for
# quantized ones; "preact-bare": rsquant's own before 0.2.
BLOCKS = ("auto", "post", "preact", "preact-bare")
STEMS = ("auto", "imagenet", "small", "tiny")
TASKS = ("classification", "segmentation")
QUANTIZERS = (
    "lq",
    "lq-thresholds",
    "lsq",
    "uniform",
    "brevitas-default",
    "brevitas-learned",
    "brevitas-mse",
)
GRIDS = ("none", "fine", "coarse")
# Of the weights of an output channel, before they are quantized.
WEIGHT_NORMS = ("none", "std", "mean-abs")
PACKED_GRIDS = ("coarse", "fine")

# Of training.
CROPS = ("single", "multi")
AUGMENTATIONS = (
    "none",
    "trivialaugment",
    "randaugment",
    "autoaugment",
    "augmix",
    "colorjitter",
)
DECAYS = ("weights", "all")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine")
DISTILLATIONS = ("full", "vanilla", "top-down", "from-largest", "none")
AMP = ("none", "bf16", "fp16")
# BatchNorms of the settings: one each, or one for all.
NORMS = ("private", "shared")
BASIS_UPDATES = ("all", "largest")
TEACHER_SIZES = ("every", "largest")

CHECKPOINTS = ("best", "last")
# Programs whose networks are read, and what their images are.
IMPORTS = ("rsnets",)
PIXELS = ("plain", "imagenet")
FORMS = ("auto", "codebook", "int8", "float")
# Devices that need no number.
DEVICES = ("auto", "cpu", "cuda")


def listed(names: tuple[str, ...]) -> str:
    """Names in a sentence: "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
