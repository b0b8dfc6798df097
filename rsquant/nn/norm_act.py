"""BatchNorms to switchable ones; those of a class of its own with the modules they run behind it.

timm's BatchNormAct2d is a BatchNorm2d that also holds a drop layer and an activation, and runs all
three. A class may as well add nothing (another default of eps). Which it is, is seen from results.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection
from itertools import permutations

import torch
from torch import distributed, nn

from rsquant.errors import ModelError
from rsquant.nn.active import ActiveSetting
from rsquant.nn.norm import SwitchableBatchNorm1d, SwitchableBatchNorm2d
from rsquant.nn.reparametrized import check_own

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm
# Of float64, relative to the largest value: sums of a few dozen products.
_ROUNDING = 1e-9
# More modules than this would be too many orders to try.
_MOST_PARTS = 3
_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def switchable_norm(name: str, norm: BatchNorm, active: ActiveSetting, vectors: bool) -> nn.Module:
    """The layer in a BatchNorm's place: one copy of it per resolution.

    A class of its own that runs more behind it becomes a Sequential: `norm`, and its parts by
    their own names. A SyncBatchNorm computes what it does in one process.

    Args:
        name: told in errors.
        vectors: a SyncBatchNorm reads (N, C) or (N, C, L).
    Raises:
        ModelError: no running statistics; a class that computes something else; statistics of
            several processes.
    """
    check_own(name, norm, "rsquant.convert")
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError(
            f"{name}: is a {type(norm).__name__} with track_running_stats=False, which has no "
            "statistics to keep per resolution; use track_running_stats=True"
        )
    if isinstance(norm, nn.SyncBatchNorm) and _processes() > 1:
        raise ModelError(
            f"{name}: is a {type(norm).__name__}, whose statistics would no longer be those of all "
            f"{_processes()} processes; use BatchNorm2d"
        )
    parts = {} if type(norm) in BATCHNORMS else parts_behind(norm)
    if parts is None:
        raise ModelError(
            f"{name}: is a {type(norm).__name__}, whose own computation would be lost; "
            "use BatchNorm2d (or 1d) followed by what it adds"
        )
    flat = isinstance(norm, nn.BatchNorm1d) or vectors
    kind = SwitchableBatchNorm1d if flat else SwitchableBatchNorm2d
    switchable = kind.from_float(norm, active).train(norm.training)
    if not parts:
        return switchable
    new = nn.Sequential(OrderedDict({_unused("norm", parts): switchable, **parts}))
    # The parts keep their own modes.
    new.training = norm.training
    return new


def _unused(name: str, names: Collection[str]) -> str:
    return _unused(f"batch_{name}", names) if name in names else name


def _processes() -> int:
    """How many processes train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def parts_behind(norm: BatchNorm) -> dict[str, nn.Module] | None:
    """The modules that a BatchNorm runs behind its normalisation, by name, in the order they run.

    y = part_n(... part_1(batch_norm(x))). Compared with the class's own forward in float64, in
    evaluation and in training, statistics included; parts may draw random numbers.

    Args:
        norm: a BatchNorm2d, BatchNorm1d, SyncBatchNorm or a subclass, with running statistics.
    Returns:
        Empty for a class that adds nothing; None where the class computes anything else.
    """
    own = {name for name, _ in norm.named_parameters(recurse=False)}
    own |= {name for name, _ in norm.named_buffers(recurse=False)}
    parts = dict(norm.named_children())
    if own - set(_STATE) or len(parts) > _MOST_PARTS:
        return None
    for names in permutations(parts):
        try:
            if _computes(norm, names):
                return {name: parts[name] for name in names}
        except Exception:  # whatever a user's forward raises on inputs it was not made for
            return None
    return None


@torch.no_grad()
def _computes(norm: BatchNorm, names: tuple[str, ...]) -> bool:
    """Whether a BatchNorm's forward is batch_norm and then the parts of these names."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    twin = copy.deepcopy(norm).cpu().double()
    for module in twin.modules():
        # They may write to what the user keeps.
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    channels = norm.num_features
    # Values on both sides of where activations bend or clip.
    for name, value in (("weight", 4 * normal(channels)), ("bias", normal(channels))):
        if getattr(twin, name) is not None:
            getattr(twin, name).copy_(value)
    assert twin.running_mean is not None and twin.running_var is not None
    twin.running_mean.copy_(normal(channels))
    twin.running_var.copy_(normal(channels).square() + 0.5)
    plain = plain_norm(twin).double()
    plain.load_state_dict(
        {name: value for name, value in twin.state_dict().items() if name in _STATE}
    )
    behind = nn.Sequential(plain, *(copy.deepcopy(getattr(twin, name)) for name in names))
    shape = (4, channels) if isinstance(norm, nn.BatchNorm1d) else (4, channels, 6, 5)
    # Twice in training: statistics that average all batches alike differ at the second.
    for training in (False, True, True, False):
        twin.train(training)
        behind.train(training)
        x = 2 * normal(*shape)
        results = []
        for forward in (twin.forward, behind.forward):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                results.append(forward(x.clone()))
        pairs = [(results[0], results[1])]
        assert plain.running_mean is not None and plain.running_var is not None
        pairs += [(twin.running_mean, plain.running_mean), (twin.running_var, plain.running_var)]
        for got, wanted in pairs:
            largest = float(wanted.abs().max())
            if got.shape != wanted.shape or not float((got - wanted).abs().max()) <= (
                _ROUNDING * largest
            ):
                return False
    return True


def plain_norm(norm: BatchNorm) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """A BatchNorm of torch's own class with the settings of one of its subclasses."""
    kind = nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine)
    for name in ("weight", "bias"):
        if getattr(norm, name) is None:
            plain.register_parameter(name, None)
    return plain
