"""Weights of another network, or of the same at other bits and sizes, as the start of a network.

Layers are found by name; where the blocks differ (post- and pre-activation) by what the layer is in
its block; where no name fits, by their order, if all shapes are equal. BatchNorms of ours are found
by setting: a size that the source does not have takes a blend of its neighbours, or the nearest
end. A plain network's BatchNorms are copied to every setting.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rsquant.errors import CheckpointError
from rsquant.models.block_names import other_names
from rsquant.models.factory import build
from rsquant.models.layer_settings import layers_of
from rsquant.models.resnet import LAYERS
from rsquant.models.sources import Weights, open_weights
from rsquant.nn.finite import first_bad
from rsquant.nn.integer.build import make_integer
from rsquant.nn.integer.endings import integer_heads
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.probe import probe
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.nn.switchable import CUSTOM, ModelSpec, SwitchableNetwork
from rsquant.quantizers.base import Quantizer
from rsquant.settings import blend, of_all, of_sizes
from rsquant.tasks import by_name

_NAMES_SHOWN = 4
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Start:
    """What a network took from a source.

    Attributes:
        source: its name.
        layers: how many layers took their tensors.
        missing: layers of the network that the source does not have.
        unused: layers of the source that the network does not have.
        replaced: heads that stay new, and why.
        quantizers: those whose state was taken, too.
        notes: what else there is to say.
        own_statistics: whether the source's BatchNorm statistics are those of the network: no layer
            and no quantizer is new, and no size of a source that says its sizes.
    """

    source: str
    layers: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    replaced: tuple[str, ...]
    quantizers: frozenset[str]
    notes: tuple[str, ...]
    own_statistics: bool = False

    def __str__(self) -> str:
        parts = [f"{self.layers} layers from {self.source}", *self.notes, *self.replaced]
        for what, names in (("not in it", self.missing), ("not used of it", self.unused)):
            if names:
                shown = ", ".join(names[:_NAMES_SHOWN])
                more = len(names) - _NAMES_SHOWN
                parts.append(f"{what}: {shown}" + (f" and {more} more" if more > 0 else ""))
        return "; ".join(parts)


def start_from(
    network: SwitchableNetwork, source: str | Path | Weights, which: str = "best"
) -> Start:
    """Give a network the weights of a source, in place; weight quantizers start from them.

    The network's classifier stays new where the source tells other classes apart. Its `spec` takes
    over what the source's images were normalised by. Afterwards fit the activation bases with
    `rsquant.calibrate` and, unless they are the network's own already, BatchNorm statistics with
    `rsquant.nn.reestimate.reestimate`, as `rsquant train --init` does.

    Args:
        network: of `rsquant.create` or `rsquant.convert`.
        source: what `open_weights` takes, or has opened.
        which: best or last, of a run.
    Returns:
        What was taken and what not; its text is one line.
    Raises:
        CheckpointError: a layer of another shape, or nothing that fits; the network is as it was.
    """
    arch = None if network.spec.arch == CUSTOM else network.spec.arch
    weights = source if isinstance(source, Weights) else open_weights(source, arch, which)
    return _Match(network, weights).apply()


class _Match:
    """Which tensor of a source each one of a network takes."""

    def __init__(self, network: SwitchableNetwork, weights: Weights) -> None:
        self.network, self.weights = network, weights
        self.modules = dict(network.body.named_modules())
        self.quantizers = {n for n, m in self.modules.items() if isinstance(m, Quantizer)}
        plain = _plain_names(network.spec, network.body)
        own = network.body.state_dict(keep_vars=True)
        self.own = {n: t for n, t in own.items() if not n.endswith(_COUNT)}
        self.plain = {name: plain.get(name, name) for name in self.own}
        of_source = _names_of_source(weights)
        self.given = {
            of_source.get(name, name): tensor
            for name, tensor in weights.tensors.items()
            if not name.endswith(_COUNT)
        }
        self.source_layers = {of_source.get(n, n): e for n, e in weights.layers.items()}

    def apply(self) -> Start:
        bad = first_bad(self.given.items())
        if bad:
            raise CheckpointError(f"{self.weights.name}: {bad}; train it again, or take another")
        taken, notes = self._by_name(), []
        if not any(self.own[name].ndim > 1 and self._is_layer(name) for name in taken):
            by_order = self._by_order()
            if by_order is None:
                raise CheckpointError(self._nothing_fits())
            taken = by_order
            notes.append("matched by order, as no name fits")
        heads = self._heads
        values: dict[str, Tensor] = {}
        replaced: dict[str, str] = {}
        wrong: list[str] = []
        used = set(taken.values())
        for name, found in taken.items():
            layer = name.rpartition(".")[0]
            value, own = self.given[found], self.own[name]
            if layer in heads and (why := self._other_classes(value, own)):
                replaced[layer] = why
                continue
            row_value = self._rows(name, value)
            if row_value.shape != own.shape:
                shape = tuple(self._row_shape(name))
                wrong.append(f"{self.plain[name]} is {tuple(value.shape)}, the network's {shape}")
                continue
            values[name] = row_value
        if wrong:
            more = f" ({len(wrong) - 1} more do not fit)" if len(wrong) > 1 else ""
            raise CheckpointError(f"{self.weights.name}: {wrong[0]}{more}; {self._advice()}")
        states, taken_quantizers = self._quantizer_states()
        with torch.no_grad():
            for name, value in {**values, **states}.items():
                self.own[name].copy_(value)
        self._restart(taken_quantizers)
        if self.weights.mean is not None and self.weights.std is not None:
            spec = dataclasses.replace(
                self.network.spec, mean=self.weights.mean, std=self.weights.std
            )
            self.network.spec = spec
        notes += self._about_norms(values)
        layers = {name.rpartition(".")[0] for name in values}
        all_own = {n.rpartition(".")[0] for n in self.own if self._is_layer(n)}
        unused = {
            n.rpartition(".")[0] for n in self.given.keys() - used if not self._of_quantizer(n)
        }
        missing = tuple(self.plain_layer(n) for n in sorted(all_own - layers - replaced.keys()))
        return Start(
            self.weights.name,
            len(layers),
            missing,
            tuple(sorted(unused)),
            tuple(f"{name} stays new ({why})" for name, why in replaced.items()),
            frozenset(taken_quantizers),
            tuple(notes),
            not missing and self._computes_the_same(taken_quantizers),
        )

    def _computes_the_same(self, taken: Collection[str]) -> bool:
        """Whether the layers read what they read in the source, at sizes and widths that it has."""
        theirs, mine = self.weights.spec, self.network.spec
        if self.quantizers - set(taken):
            return False
        if theirs is None:  # others' ResNets have post-activation blocks
            return mine.block in ("own", "post") and not mine.integer and not mine.widths
        same = (theirs.block, theirs.integer) == (mine.block, mine.integer)
        widths = set(mine.widths or (1.0,)) <= set(theirs.widths or (1.0,))
        return same and widths and set(mine.resolutions) <= set(theirs.resolutions)

    def plain_layer(self, layer: str) -> str:
        name = next(n for n in self.own if n.rpartition(".")[0] == layer)
        return self.plain[name].rpartition(".")[0]

    def _is_layer(self, name: str) -> bool:
        """Whether a tensor belongs to a layer, not to a quantizer or to a device's rounding."""
        return name in self._layer_names

    @functools.cached_property
    def _layer_names(self) -> set[str]:
        learned = {n for n, _ in self.network.body.named_parameters(remove_duplicate=False)}
        statistics = {n for n in self.own if n.endswith(("running_mean", "running_var"))}
        return {n for n in learned | statistics if _prefix(n, self.quantizers) is None}

    def _of_quantizer(self, given: str) -> bool:
        """Whether a tensor of the source belongs to a quantizer, or to the steps of bytes."""
        return ".shared." in given or _prefix(given, self._source_quantizers) is not None

    @functools.cached_property
    def _source_quantizers(self) -> set[str]:
        return {name for name, entry in self.source_layers.items() if "bits" in entry}

    def _candidates(self, name: str) -> tuple[str, ...]:
        plain = self.plain[name]
        found = [plain]
        spec = self.network.spec
        if spec.arch in LAYERS:
            bottleneck = LAYERS[spec.arch][0].expansion == 4
            found += other_names(plain, bottleneck)
        # A BatchNorm with an activation, which conversion has taken apart.
        layer, _, leaf = plain.rpartition(".")
        outer, _, part = layer.rpartition(".")
        if part in ("norm", "batch_norm"):
            found.append(f"{outer}.{leaf}")
        else:
            found.append(f"{layer}.norm.{leaf}")
        return tuple(found)

    def _by_name(self) -> dict[str, str]:
        taken: dict[str, str] = {}
        for name in self.own:
            if self._is_layer(name):
                found = next((c for c in self._candidates(name) if c in self.given), None)
                if found is not None:
                    taken[name] = found
        return taken

    def _by_order(self) -> dict[str, str] | None:
        """By position, where both have the same tensors of the same shapes but the head's."""
        own = [name for name in self.own if self._is_layer(name)]
        given = [name for name in self.given if not self._of_quantizer(name)]
        if len(own) != len(given):
            return None
        for mine, theirs in zip(own, given, strict=True):
            same_kind = mine.rpartition(".")[2] == theirs.rpartition(".")[2]
            shapes = (self._row_shape(mine), self._source_row_shape(theirs))
            head = len(shapes[0]) == len(shapes[1]) and shapes[0][1:] == shapes[1][1:]
            is_head = mine.rpartition(".")[0] in self._heads
            if not same_kind or not (shapes[0] == shapes[1] or (is_head and head)):
                return None
        return dict(zip(own, given, strict=True))

    @functools.cached_property
    def _heads(self) -> set[str]:
        """Names of the layers that give the outputs."""
        spec, body = self.network.spec, self.network.body
        if spec.integer:
            return set(integer_heads(body))
        if spec.arch in LAYERS:
            heads = {"fc"}
        else:
            with self.network.active.at_row(0):
                heads = set(probe(body, self.network.resolutions[0], by_name(spec.task)).heads)
        return heads | {f"{name}.layer" for name in heads}

    def _other_classes(self, value: Tensor, own: Tensor) -> str:
        """Why a head is not taken; "" if it is."""
        theirs, mine = self.weights.classes, self.network.spec.classes
        if value.ndim == own.ndim and value.shape[1:] == own.shape[1:]:
            if len(value) != len(own):
                return f"{len(value)} classes in the source, {len(own)} here"
            if theirs and mine and theirs != mine:
                return "other classes in the source"
        return ""

    def _norm(self, name: str) -> SwitchableBatchNorm2d | None:
        owner = self.modules[name.rpartition(".")[0]]
        return owner if isinstance(owner, SwitchableBatchNorm2d) else None

    def _row_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self.own[name].shape)
        return shape[1:] if self._norm(name) is not None else shape

    def _source_row_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self.given[name].shape)
        ours = self.weights.spec is not None
        entry = self.source_layers.get(name.rpartition(".")[0], {})
        return shape[1:] if ours and len(shape) == 2 and entry.keys() == {"eps"} else shape

    def _rows(self, name: str, value: Tensor) -> Tensor:
        """A BatchNorm's values of every setting of the network; other tensors as they are."""
        norm = self._norm(name)
        value = value.to(torch.float32) if value.is_floating_point() else value
        if norm is None:
            return value
        settings = self.network.settings
        if value.ndim == 1:
            return value.expand(len(settings), -1) if len(value) == norm.num_features else value
        spec = self.weights.spec
        if value.ndim != 2 or value.shape[1] != norm.num_features or spec is None:
            return value
        theirs = of_all(spec.resolutions, spec.bits, spec.widths)
        if theirs == settings:
            return value
        if len(theirs) != len(value):
            return value
        rows = []
        for setting in settings:
            bits = setting.bits if setting.bits in {one.bits for one in theirs} else None
            width = setting.width if setting.width in {one.width for one in theirs} else None
            upper, lower, weight = blend(theirs, setting.size, width, bits)
            rows.append(torch.lerp(value[upper], value[lower], weight) if weight else value[upper])
        return torch.stack(rows)

    def _about_norms(self, values: Mapping[str, Tensor]) -> list[str]:
        spec = self.weights.spec
        if not any(self._norm(name) is not None for name in values):
            return []
        if spec is None:
            return ["BatchNorms copied to every size"] if len(self.network.settings) > 1 else []
        return _about_sizes(spec.resolutions, self.network.resolutions)

    def _quantizer_states(self) -> tuple[dict[str, Tensor], list[str]]:
        """The state of quantizers that the source has just like that."""
        states: dict[str, Tensor] = {}
        taken = []
        own = layers_of(self.network.body)
        for layer in sorted(self.quantizers):
            tensors = [n for n in self.own if _prefix(n, self.quantizers) == layer]
            if not tensors:
                continue
            inside = tensors[0].removeprefix(layer)
            plain = self.plain[tensors[0]].removesuffix(inside)
            entry = self.source_layers.get(plain)
            found = {n: self.given.get(self.plain[n]) for n in tensors}
            fits = all(v is not None and v.shape == self.own[n].shape for n, v in found.items())
            if fits and entry is not None and entry == own[layer]:
                states |= {n: v for n, v in found.items() if v is not None}
                taken.append(layer)
        return states, taken

    @torch.no_grad()
    def _restart(self, taken: Sequence[str]) -> None:
        """Start the weight quantizers whose state the source has not."""
        for name, module in self.modules.items():
            if isinstance(module, QUANTIZED_LAYERS) and f"{name}.weight_quantizer" not in taken:
                module.fit_weight_quantizer()

    def _nothing_fits(self) -> str:
        mine = [self.plain[n] for n in self.own if self._is_layer(n)]
        given = [name for name in self.given if not self._of_quantizer(name)]
        return (
            f"{self.weights.name}: none of its {len(given)} tensors ({', '.join(given[:3])}) is "
            f"one of the network's ({', '.join(mine[:3])}); {self._advice()}"
        )

    def _advice(self) -> str:
        spec = self.weights.spec
        if spec is not None and spec.arch != CUSTOM:
            more = f", width {spec.width}, stem '{spec.stem}'" if spec.arch in LAYERS else ""
            return f"it is a {spec.arch}{more}; choose the network as it is"
        return "choose the `arch`, `width` and `stem` that it is of"


def _prefix(name: str, modules: Collection[str]) -> str | None:
    """The outermost of some modules that a tensor is in."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts)))
    return next((prefix for prefix in prefixes if prefix in modules), None)


def _about_sizes(theirs: Sequence[int], mine: Sequence[int]) -> list[str]:
    """How sizes that the source does not have came by their BatchNorms."""
    settings = of_sizes(tuple(theirs))
    parts = []
    for size in dict.fromkeys(mine):
        if size in theirs:
            continue
        upper, lower, weight = blend(settings, size)
        if weight:
            where = f"between {settings[upper].size} and {settings[lower].size}"
        else:
            where = f"of {settings[upper].size}"
        parts.append(f"{size} {where}")
    return [f"BatchNorms by size, {', '.join(parts)}"] if parts else []


def _plain_names(spec: ModelSpec, body: nn.Module) -> dict[str, str]:
    """Names of an integer network's tensors in the network that it was made of; else none.

    An integer network is the plain one in other modules: the same tensors under other names.
    """
    if not spec.integer or spec.arch == CUSTOM:
        return {}
    with torch.random.fork_rng(devices=[]):
        plain = build(dataclasses.replace(spec, integer=False))
    names = {id(t): n for n, t in plain.body.state_dict(keep_vars=True).items()}
    make_integer(plain)
    return {
        name: names[id(tensor)]
        for name, tensor in plain.body.state_dict(keep_vars=True).items()
        if id(tensor) in names
    }


def _names_of_source(weights: Weights) -> dict[str, str]:
    if weights.spec is None or not weights.spec.integer:
        return {}
    names = _plain_names(weights.spec, nn.Identity())
    # And of what holds them.
    return names | {a.rpartition(".")[0]: b.rpartition(".")[0] for a, b in names.items()}
