"""What a run is made of: frozen dataclasses, their ranges and their YAML form."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsquant.errors import ConfigError
from rsquant.packages import require
from rsquant.processors import MOST_THREADS
from rsquant.text import brief, did_you_mean, one_line

PAPER_RESOLUTIONS = (224, 192, 160, 128, 96)


@dataclass(frozen=True)
class ModelConfig:
    """The network: see `rsquant.create`.

    `individual`: train a network for this size alone, in everything else (the stem, which is chosen
    by the largest resolution) the switchable network of `resolutions`.
    """

    arch: str = "resnet50"
    wbits: int = 2
    abits: int = 2
    resolutions: tuple[int, ...] = PAPER_RESOLUTIONS
    width: int = 64
    stem: str = "auto"
    grid: str = "none"
    block: str = "auto"
    quantizer: str = "lq"
    # By pattern of layer names: "4/4", bits of weights and activations; and names of quantizers.
    layer_bits: Mapping[str, str] = field(default_factory=dict)
    layer_quantizer: Mapping[str, str] = field(default_factory=dict)
    individual: int | None = None
    integer: bool = False
    # What images are normalised by, each channel; None: as ImageNet, or as `train.init` was.
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    task: str = "classification"
    weight_norm: str = "none"
    # Of several settings, "4/4"; in place of wbits and abits.
    bits: tuple[str, ...] = ()
    # Of several settings, shares of the channels, descending from 1.
    widths: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are cropped."""

    source: str = "shapes"
    workers: int = 2
    crop: str = "single"
    area: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    augment: str = "none"
    train_images: int | None = None
    val_images: int | None = None
    # Of the names in the set, as a run found it; written, not set. "": a run of an older version.
    fingerprint: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained."""

    epochs: int = 120
    batch: int = 256
    lr: float = 0.1
    # sgd, adam or adamw; momentum is of the first, betas of the others.
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    nesterov: bool = False
    weight_decay: float = 1e-4
    # "weights": of convolutions and linear layers alone; "all": every parameter but alpha.
    decay: str = "weights"
    schedule: str = "step"
    warmup: float = 0.0
    distillation: str = "full"
    # Another network that teaches: a run or checkpoint; what network a file of weights alone is of
    # (None: the run's own architecture); which sizes' images it sees; the weight of the labels'
    # loss beside it. The fingerprint of its weights is written, not set.
    teacher: str | None = None
    teacher_arch: str | None = None
    teacher_at: str = "every"
    labels: float = 1.0
    # Share of a label that is spread over all classes.
    label_smoothing: float = 0.0
    # The largest norm of all gradients together; None: any.
    clip_norm: float | None = None
    # Epochs without a better mean of the main figure after which training ends; None: never.
    patience: int | None = None
    teacher_fingerprint: str = ""
    # What averages of the weights keep of the past at each step: 0.999; None: no averages.
    ema: float | None = None
    # Batches from which BatchNorm statistics are estimated again at the end; 0: as they are.
    bn_reestimate: int = 0
    basis_updates: str = "all"
    # none, balanced, or NAME=WEIGHT,...: how much each class counts in the loss.
    class_weights: str = "none"
    # Patterns of names of layers that stay as they are.
    freeze: tuple[str, ...] = ()
    # Images that activation bases are fitted to before the first step; 0: the published start.
    calibration: int = 64
    # What the network starts from: a run, a checkpoint, a file, torchvision:WEIGHTS, timm:NAME or
    # pretrained. None: random weights.
    init: str | None = None
    # Weight of a step's statistics in those of the BatchNorms; None: as each layer has it.
    norm_momentum: float | None = None
    # "private": BatchNorms for each size; "shared": the same for all, to compare with.
    norms: str = "private"
    # Of several processes: BatchNorms normalise by the whole batch, not by each process's part.
    sync_bn: bool = False
    seed: int = 0
    device: str = "auto"
    # "none", "bf16" or "fp16"; in older files true or false.
    amp: str = "none"
    # Parts of a batch that go through the network one after the other.
    accumulate: int = 1
    # Blocks run again in backward, which saves the memory of what is in them.
    recompute: bool = False
    threads: int | None = None
    # Bits of phases, from more to fewer, "4,3,2" or "4:5,3:5,2:20" with epochs; "": no phases.
    bits_schedule: str = ""
    # Alpha of the shares of images that are mixed; 0: none.
    mixup: float = 0.0
    cutmix: float = 0.0
    # The state is saved after so many minutes too, not at the ends of epochs alone; 0: there alone.
    save_minutes: float = 10.0


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless said otherwise; never NaN."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        # False for NaN.
        bottom = value > self.low if self.above else value >= self.low
        return bottom and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if not (self.above or self.below):
            return f"{self.low} to {self.high}"
        low = f"above {self.low}" if self.above else f"{self.low} or more"
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


# What numbers may be, each of a list's too. The upper ends are far above any sensible setting: they
# stop slips (1e400, a forgotten point) before they cost time, memory or a network. Bit widths are
# no range; `nn.precision.check_bits` knows them.
RANGES = {
    "model.resolutions": Range(1, 4096),
    "model.width": Range(1, 2048),
    "model.widths": Range(0, 1, above=True),
    "model.individual": Range(1, 4096),
    "model.mean": Range(-1000, 1000),
    "model.std": Range(0, 1000, above=True),
    "data.workers": Range(0, 256),
    "data.area": Range(0, 1, above=True),
    "data.train_images": Range(1, 100_000_000),
    "data.val_images": Range(1, 100_000_000),
    "train.epochs": Range(1, 100_000),
    "train.batch": Range(2, 65_536),
    "train.lr": Range(0, 1000, above=True),
    "train.momentum": Range(0, 1, below=True),
    "train.betas": Range(0, 1, below=True),
    "train.label_smoothing": Range(0, 1, below=True),
    "train.ema": Range(0, 1, below=True),
    "train.bn_reestimate": Range(0, 100_000),
    "train.clip_norm": Range(0, 1e9, above=True),
    "train.patience": Range(1, 100_000),
    "train.weight_decay": Range(0, 10),
    "train.warmup": Range(0, 100_000),
    "train.accumulate": Range(1, 65_536),
    "train.labels": Range(0, 1),
    "train.calibration": Range(0, 65_536),
    "train.norm_momentum": Range(0, 1, above=True),
    "train.seed": Range(0, 2**63 - 1),
    "train.threads": Range(1, MOST_THREADS),
    "train.mixup": Range(0, 100),
    "train.cutmix": Range(0, 100),
    "train.save_minutes": Range(0, 100_000),
}
# Numbers without a range of their own: what float32 holds.
_ANY = Range(-3e38, 3e38)


@dataclass(frozen=True)
class RunConfig:
    """Everything `rsquant train` needs; what a run folder's config.yaml holds."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain dict, tuples as lists; the form written to YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(config))


def from_dict(
    raw: dict[str, Any], where: str = "config", base: RunConfig | None = None
) -> RunConfig:
    """Build a RunConfig from nested dicts; keys not given keep `base`'s values.

    Raises:
        ConfigError: an unknown section or key (the nearest valid one is named), a wrong type, or
            a number outside its range.
    """
    config = base or RunConfig()
    sections = [f.name for f in dataclasses.fields(RunConfig)]
    changes: dict[str, Any] = {}
    for section, values in (raw or {}).items():
        _check_key(section, sections, where)
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: section '{section}' must hold keys, got {brief(values)}")
        if section == "train" and isinstance(values.get("amp"), bool):  # before 0.2
            values = {**values, "amp": "bf16" if values["amp"] else "none"}
        changes[section] = _replace(getattr(config, section), values, where, section)
    return dataclasses.replace(config, **changes)


def load_run(path: Path) -> RunConfig:
    """The config.yaml of a run folder, also of one made before a key existed.

    Such a run goes on as it began: without calibration, with decay on all parameters, with the
    block of before 0.2.
    """
    raw = read_settings(path)
    config = from_dict(raw, str(path))
    model, train = config.model, config.train
    if "block" not in raw.get("model", {}):
        resnet = model.arch.startswith("resnet")
        block = "preact-bare" if resnet and model.abits < 32 else "auto"
        model = dataclasses.replace(model, block=block)
    if "decay" not in raw.get("train", {}):
        train = dataclasses.replace(train, decay="all", calibration=0)
    return dataclasses.replace(config, model=model, train=train)


def load_yaml(path: Path, base: RunConfig | None = None) -> RunConfig:
    """Read a YAML recipe. Raises ConfigError naming the file, the key and what is valid."""
    return from_dict(read_settings(path), str(path), base)


def read_settings(path: Path) -> dict[str, Any]:
    require("rsquant.config", "train", "yaml")
    from rsquant.yaml_file import read_yaml

    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold the sections model, data and train, got {brief(raw)}")
    return raw or {}


def dump_yaml(config: RunConfig) -> str:
    """YAML text that `load_yaml` reads back to an equal RunConfig."""
    require("rsquant.config", "train", "yaml")
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _listed(names: list[str]) -> str:
    """As many names as a line holds."""
    text = ", ".join(names)
    return text if len(text) <= 400 else f"{text[:400].rpartition(', ')[0]}, ..."


def _check_key(key: object, valid: list[str], where: str) -> None:
    if key not in valid:
        hint = did_you_mean(key, valid).rstrip() or f"valid: {_listed(valid)}"
        raise ConfigError(f"{where}: unknown key {brief(key)}; {hint}")


def _replace(section: Any, values: dict[str, Any], where: str, name: str) -> Any:
    hints = _hints(type(section))  # type: ignore[arg-type]
    changes = {}
    for key, value in values.items():
        _check_key(key, list(hints), f"{where}: {name}")
        range_ = RANGES.get(f"{name}.{key}", _ANY)
        changes[key] = _coerce(value, hints[key], f"{where}: {name}.{key}", range_)
    return dataclasses.replace(section, **changes)


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    """The types of a section's keys."""
    return typing.get_type_hints(section)


def _coerce(value: Any, hint: Any, where: str, range_: Range) -> Any:
    """The value as the field's type; ints widen to floats, lists become tuples, nothing else."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if isinstance(value, (list, tuple)) and (kinds[-1] is ... or len(value) == len(kinds)):
            return tuple(_coerce(v, kinds[0], where, range_) for v in value)
    elif typing.get_origin(hint) is Mapping:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            what = typing.get_args(hint)[1]
            return {
                key: _coerce(v, what, f"{where}: {one_line(key, 80)}", range_)
                for key, v in value.items()
            }
        raise ConfigError(f"{where}: must map patterns to text, got {brief(value)}")
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(value, where, range_)
        return float(value)
    elif hint is float and isinstance(value, str):
        # YAML reads 1e-4 as text.
        with suppress(ValueError):
            number = float(value)
            _check_range(number, where, range_)
            return number
    elif type(value) is hint:
        if hint is int:
            _check_range(value, where, range_)
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: must be {name}, got {brief(value)}")


def _check_range(value: float, where: str, range_: Range) -> None:
    if value not in range_:
        raise ConfigError(f"{where}: must be {range_}, got {brief(value)}")
