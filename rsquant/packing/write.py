"""A network to a packed file: all resolutions over one set of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from rsquant import runtime
from rsquant.atomic import check_free, check_suffix, replacing
from rsquant.errors import ConfigError, PackedFileError, PackError
from rsquant.nn.classifier import wrong_num_classes
from rsquant.nn.finite import first_bad
from rsquant.nn.hooks import check_hooks_only_look, without_forward_hooks
from rsquant.nn.integer.byte_scale import ByteScale
from rsquant.nn.integer.layers import IntegerImageConv
from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.precision import FLOAT
from rsquant.nn.quantized import QuantConv2d, QuantLinear
from rsquant.nn.reparametrized import check_no_weight_hooks
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.nn.variant import at_variant
from rsquant.packed.build import build_program
from rsquant.packed.fields import FieldError
from rsquant.packed.file import Packed, checked
from rsquant.packed.format import Tensors, write_packed
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.conv_numbers import has_whole_weight
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.plan import MAX_SETTINGS, NetworkSpec, Plan, needed_version
from rsquant.packed.schema import from_json, to_json
from rsquant.packed.variants import put_together
from rsquant.packing.affine import Affine, norm_table
from rsquant.packing.agreement import check_codes
from rsquant.packing.grid import GridCost, OnGrid, on_grid
from rsquant.packing.integer_ops import INTEGER_LAYERS
from rsquant.packing.integers import integer_tensors, lower_integers
from rsquant.packing.lower import Lowered, lower
from rsquant.packing.obstacle import float_side
from rsquant.packing.trace import trace, trace_integers
from rsquant.packing.weights import (
    conv_tensors,
    head_tensors,
    image_tensors,
    is_float,
    linear_tensors,
)
from rsquant.runtime.cpu.session import Session
from rsquant.settings import Variant
from rsquant.version import __version__


@dataclass(frozen=True)
class PackResult:
    """What was written, in bytes and changes.

    Attributes:
        weight_bytes: bit planes, bases and scales of the low-bit layers.
        end_bytes: the first convolution and the classifier or head.
        table_bytes: BatchNorms of all resolutions.
        snapped, weights, activations: see `grid.OnGrid`.
    """

    path: Path
    file_bytes: int
    weight_bytes: int
    end_bytes: int
    table_bytes: int
    snapped: bool
    weights: GridCost
    activations: GridCost


def pack(
    model: SwitchableNetwork, path: str | Path, grid: str = "coarse", exist_ok: bool = False
) -> PackResult:
    """Write a network as one file that `rsquant.runtime` runs with numpy alone.

    Args:
        model: trained with wbits and abits of 1 to 4; it is not changed.
        path: by custom it ends in .rsq; written whole or not at all.
        grid: coarse or fine: the integers that the levels of a network trained without a grid are
            moved to; one trained on a grid stays on it.
        exist_ok: replace an existing file.
    Raises:
        PackError: the network holds something that cannot be packed.
        RsquantError: the file exists or cannot be written.
    """
    path = Path(path)
    check_suffix(path, ".rsq")
    check_free(path, exist_ok)
    return pack_on_grid(on_grid(model, grid), path, exist_ok)


def pack_on_grid(made: OnGrid, path: Path, exist_ok: bool = False) -> PackResult:
    """`pack` for a network already on its grid."""
    if (settings := len(made.network.variants)) > MAX_SETTINGS:
        raise PackError(
            f"the network has {settings} widths and bits, a packed file at most {MAX_SETTINGS}; "
            "train it at fewer"
        )
    packed, lowered = lowered_network(at_variant(made.network), path)
    plan, tensors = packed.plan, packed.tensors
    if made.network.spec.several:
        parts = {packed.variants[0]: (plan, tensors)}
        for variant in made.network.variants[1:]:
            part = lowered_network(at_variant(made.network, variant), path)[0]
            bits = part.plan.network.wbits, part.plan.network.abits
            parts[Variant(variant.width, bits)] = part.plan, part.tensors
        plan, tensors = put_together(parts)
    check_free(path, exist_ok)
    with replacing(path) as temporary:
        write_packed(temporary, tensors, to_json(plan))
        session = check_loads(temporary, plan.network)
        if made.network.spec.integer and session is not None:
            check_codes(made.network, session, lowered.values)
    sizes = {"end": 0, "table": 0, "weight": 0}
    ends = {
        step.name
        for step in plan.steps
        if isinstance(step, LinearSpec)
        or (
            isinstance(step, ConvSpec) and (step.input == 0 or has_whole_weight(step.name, tensors))
        )
    }
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition(".")
        kind = "table" if what == "norm" else "end" if layer in ends else "weight"
        sizes[kind] += tensor.nbytes
    return PackResult(
        path,
        path.stat().st_size,
        sizes["weight"],
        sizes["end"],
        sizes["table"],
        made.snapped,
        made.weights,
        made.activations,
    )


def check_loads(path: Path, network: NetworkSpec) -> Session | None:
    """Load a file that was just written, at all its settings, before it gets its name.

    Returns:
        The session; None where this machine has no kernels.
    Raises:
        PackError: the runtime refuses it.
    """
    try:
        session = runtime.load(path, threads=1, tune=False)
        for variant in session.packed.variants:
            one = session.at(width=variant.width, bits=variant.bits)
            for size in network.resolutions:
                one.prepare(size)
        return session
    except ConfigError:
        return None  # kernels that this machine cannot use say nothing about the file
    except Exception as error:
        raise PackError(
            f"{network.arch}: the file was written, but cannot be loaded, and was removed: "
            f"{' '.join(str(error).split())} (a bug in rsquant, not in your network)"
        ) from error


@torch.no_grad()
def lowered_network(network: SwitchableNetwork, path: Path) -> tuple[Packed, Lowered]:
    """Plan and tensors of a network on its grid, checked as a reader would.

    Args:
        path: for messages.
    """
    spec = network.spec
    if found := float_side(spec):
        raise PackError(f"{spec.arch}: {found}")
    if bad := first_bad(network.state_dict().items()):
        raise PackError(f"{spec.arch}: {bad}; pack a checkpoint from before training diverged")
    check_no_weight_hooks(network.body, "it is packed", PackError)
    check_hooks_only_look(network, "a packed file", error=PackError)
    with without_forward_hooks(network.body):
        if isinstance(network.body, fx.GraphModule) and spec.integer:
            lowered = lower_integers(trace_integers(network.body))
        else:
            lowered = lower(trace(network.body, spec.resolutions))
    if len(spec.mean) != 3 or len(spec.std) != 3:
        raise PackError(f"{spec.arch}: must be normalised with 3 means, got {len(spec.mean)}")
    plan = Plan(
        network=NetworkSpec(
            spec.arch,
            _most_bits(spec.wbits, [p.wbits for p in spec.layer_bits]),
            _most_bits(spec.abits, [p.abits for p in spec.layer_bits]),
            spec.resolutions,
            spec.num_classes,
            spec.classes,
            (spec.mean[0], spec.mean[1], spec.mean[2]),
            (spec.std[0], spec.std[1], spec.std[2]),
            spec.grid,
            network.stride,
            _image_zero(network),
        ),
        quantizers=tuple(lowered.quantizers),
        steps=tuple(lowered.steps),
        version=__version__,
    )
    last = lowered.steps[-1]
    if isinstance(last, LinearSpec) and last.out_features != spec.num_classes:
        raise PackError(wrong_num_classes(spec, last.out_features))
    tensors = _tensors(plan, lowered.layers)
    version = needed_version(plan.steps, plan.quantizers, tensors)
    plan = dataclasses.replace(plan, format_version=version)
    try:
        # What cannot be read must not be written: limits of the format, values that are no numbers,
        # sums of maps of different size.
        packed = checked(path, from_json(to_json(plan)), tensors)
        for size in spec.resolutions:
            build_program(packed, size, size)
    except (FieldError, PackedFileError) as error:
        reason = error if isinstance(error, FieldError) else error.__cause__
        raise PackError(
            f"{spec.arch}: cannot be packed: {reason}; change the layer it names, or pack another "
            "network"
        ) from error
    return packed, lowered


def _image_zero(network: SwitchableNetwork) -> int | None:
    """The pixel that counts as 0, of an integer network."""
    convs = (m for m in network.modules() if isinstance(m, IntegerImageConv))
    return next((conv.zero for conv in convs), None)


def _most_bits(bits: int, others: Sequence[int | None]) -> int:
    """The network's low bits, or the most that a pattern gives where the network's are 32."""
    return bits if bits < FLOAT else max(b for b in others if b is not None and b < FLOAT)


def _tensors(plan: Plan, layers: dict[str, nn.Module]) -> Tensors:
    """Tensors of all layers: weights first, then tables."""
    images = {step.name for step in plan.steps if isinstance(step, ConvSpec) and step.input == 0}
    network = plan.network
    weights: Tensors = {}
    tables: Tensors = {}
    for name, layer in layers.items():
        if isinstance(layer, (SwitchableBatchNorm2d, Affine)):
            tables[name] = norm_table(layer, len(network.resolutions))
        elif isinstance(layer, (*INTEGER_LAYERS, ByteScale)):
            found = integer_tensors(name, layer)
            (tables if isinstance(layer, ByteScale) else weights).update(found)
        elif name in images and isinstance(layer, nn.Conv2d):
            weights |= image_tensors(name, layer, network.mean, network.std)
        elif name == plan.steps[-1].name and isinstance(layer, nn.Linear):
            weights |= linear_tensors(name, layer)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)) and is_float(layer):
            weights |= head_tensors(name, layer)
        elif isinstance(layer, (QuantConv2d, QuantLinear)):
            weights |= conv_tensors(name, layer)
    return {**weights, **tables}
