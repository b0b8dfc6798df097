"""Build a switchable low-bit network from its name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import nn

from rsquant import tasks
from rsquant.choices import BLOCKS
from rsquant.errors import ConfigError
from rsquant.models import mobilenet_v2
from rsquant.models.narrower import fields_at
from rsquant.models.preact_resnet import PreactResNet, Quantize
from rsquant.models.published import (
    TIMM,
    TORCHVISION,
    timm_network,
    timm_normalisation,
    torchvision_network,
)
from rsquant.models.refinenet import RefineNet, variant
from rsquant.models.resnet import LAYERS, ResNet
from rsquant.models.stem import choose_stem, stem_stride
from rsquant.nn.active import ActiveSetting
from rsquant.nn.bits import check_bits_settings, nest_bits
from rsquant.nn.classifier import check_num_classes
from rsquant.nn.conversion import HEAD, READS_IMAGE
from rsquant.nn.convert import convert_quietly
from rsquant.nn.integer.build import integer_spec, make_integer
from rsquant.nn.precision import (
    FLOAT,
    Precision,
    Precisions,
    check_bits,
    parse_layer_bits,
    parse_layer_quantizer,
)
from rsquant.nn.replacement import replace_layers
from rsquant.nn.sizes import check_smallest
from rsquant.nn.spec_effects import check_fields
from rsquant.nn.switchable import ModelSpec, SwitchableNetwork
from rsquant.nn.widths import Narrower, check_width_settings, make_slimmable
from rsquant.quantizers import make_activations
from rsquant.quantizers.grid import limits
from rsquant.quantizers.registry import kind
from rsquant.quantizers.weight_norm import check_norm
from rsquant.settings import checked_bits, checked_sizes, checked_widths, of_all
from rsquant.text import did_you_mean

ARCHITECTURES = (*LAYERS, mobilenet_v2.NAME)
# Of a ResNet, and why they stay in float32.
_KEPT = {"conv1": READS_IMAGE, "fc": HEAD}
# 32 times the published width; the last stage of a ResNet-50 then has 65,536 channels.
MAX_WIDTH = 2048
_IMAGENET = (ModelSpec.mean, ModelSpec.std)


def create(
    arch: str,
    wbits: int = 2,
    abits: int = 2,
    resolutions: Sequence[int] = (224, 192, 160, 128, 96),
    num_classes: int = 1000,
    width: int = 64,
    stem: str = "auto",
    grid: str = "none",
    block: str = "auto",
    quantizer: str = "lq",
    task: str = tasks.DEFAULT,
    layer_bits: Mapping[str, Any] | None = None,
    layer_quantizer: Mapping[str, str] | None = None,
    integer: bool = False,
    weight_norm: str = "none",
    bits: Sequence[Any] = (),
    widths: Sequence[float] = (),
) -> SwitchableNetwork:
    """A freshly initialised low-bit network that can be run at several resolutions.

    Args:
        arch: resnet18, resnet34, resnet50, resnet101, resnet152 (pre-activation blocks when
            `abits` < 32), mobilenet_v2 (without dropout;
            mobilenet_v2_x0_35 is 0.35 times as wide), refinenet_RESNET (of a task with a class
            for each pixel; refinenet_bn_, refinenet_lw_ and refinenet_lw_bn_, see
            `models.refinenet`), or torchvision:NAME or timm:NAME for any classification CNN with
            BatchNorms of theirs.
        wbits, abits: 1 to 4, or 32 to leave that side in float32.
        resolutions: training sizes in pixels.
        num_classes: outputs of the classifier.
        width: channels of a ResNet's first stage; 64 is the published network.
        stem: imagenet, small, tiny, or auto: by the largest resolution.
        grid: none, fine or coarse: levels on small integers, see `quantizers.grid`.
        block: of a ResNet; auto is post where activations are float and preact, the published
            block, where they are quantized. A float network to start a low-bit one from has that
            one's block. preact-bare is the block of rsquant before 0.2.
        quantizer: lq, or another registered name, see `quantizers.registry`.
        task: classification, or another registered name, see `tasks.registry`.
        layer_bits: other bits for layers whose names match a shell-style pattern, the last that
            matches wins: {"layer4.*": (4, 4)}; None in place of a number leaves that side.
        layer_quantizer: other quantizers likewise: {"layer4.*": "lsq"}.
        integer: an integer network: what a device rounds is rounded in training, and evaluation
            computes its integers, see docs/integer.md. On the coarse grid.
        weight_norm: none, std or mean-abs: low-bit weights are normalised per output channel before
            they are quantized, see `quantizers.weight_norm`.
        bits: of several settings, "4/4" or (4, 4) each, 1 to 4; in place of `wbits` and `abits`.
            Their weights share the vectors of one basis, see `quantizers.nested`.
        widths: of several settings, shares of the channels of a ResNet or MobileNetV2, descending
            from 1: (1.0, 0.75, 0.5); see `nn.widths`.
    Raises:
        ConfigError: an unknown name or a bit width, width, stem or block that cannot be used, or
            a pattern that matches no layer, or only layers that stay in float32; a setting that
            changes nothing.
        ModelError: a resolution smaller than the network's stride; a layer without an integer form.
    """
    pairs = checked_bits(bits)
    if pairs:
        wbits, abits = pairs[0]
    spec = ModelSpec(
        arch,
        wbits,
        abits,
        checked_sizes(resolutions),
        num_classes,
        width,
        stem,
        grid=grid,
        block=block,
        quantizer=quantizer,
        task=task,
        layer_bits=parse_layer_bits(layer_bits),
        layer_quantizer=parse_layer_quantizer(layer_quantizer),
        integer=integer,
        weight_norm=weight_norm,
        bits=pairs,
        widths=checked_widths(widths),
    )
    check_fields(spec)
    return build(spec)


def build(spec: ModelSpec) -> SwitchableNetwork:
    """`create` from a ModelSpec; the network's own spec has "auto" and the order resolved."""
    check_bits(spec.wbits, spec.abits)
    kind(spec.quantizer)
    check_norm(spec.weight_norm)
    check_bits_settings(spec)
    check_width_settings(spec)
    fields = {width: fields_at(spec, width) for width in spec.widths if width < 1}
    tasks.by_name(spec.task)
    network = _from_others(spec) if _is_others(spec.arch) else _switchable_resnet(spec)
    if spec.widths:
        make_slimmable(network, {w: _narrower(network.spec, fields[w]) for w in fields})
    if spec.task != tasks.DEFAULT:  # which all of these are made for
        check_num_classes(network)
    return network


def _switchable_resnet(spec: ModelSpec) -> SwitchableNetwork:
    _check_resnet(spec)
    if spec.integer:
        spec = integer_spec(spec)
    active = ActiveSetting(of_all(spec.resolutions, spec.bits, spec.widths))
    stem, _ = choose_stem(spec.stem, active.resolutions)
    stride = 8 * stem_stride(stem)
    check_smallest(active.resolutions, stride, f"{spec.arch} with stem '{stem}'")
    block = choose_block(spec.block, spec.abits)
    body = _resnet(spec, stem, block)
    precisions = spec.precisions
    names = [name for name, m in body.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    points = {name: m for name, m in body.named_modules() if isinstance(m, Quantize)}
    precisions.check({name: _KEPT.get(name) for name in names}, list(points))
    for name, point in points.items():
        quantizer = _quantizer(precisions, name, point.readers, names, spec.grid)
        body.set_submodule(name, quantizer)

    def of(name: str) -> Precision:
        # Activations are quantized where the blocks say, not again at each convolution.
        found = precisions.of(name)
        return dataclasses.replace(found, abits=FLOAT) if points else found

    replace_layers(body, active, of, keep=tuple(_KEPT), grid=spec.grid)
    resolved = dataclasses.replace(spec, resolutions=active.resolutions, stem=stem, block=block)
    network = SwitchableNetwork(body, active, resolved, stride)
    if spec.bits:
        nest_bits(network)
    if spec.integer:
        make_integer(network)
    return network


def _quantizer(
    precisions: Precisions, name: str, readers: Sequence[str], layers: Sequence[str], grid: str
) -> nn.Module:
    """What takes the place of a `Quantize`."""
    bits, quantizer = precisions.of_shared(name, readers, layers)
    if bits == FLOAT:
        return nn.Identity()
    return make_activations(quantizer, bits, False, limits(grid)[1])


def _check_resnet(spec: ModelSpec) -> None:
    _check_name(spec.arch, ARCHITECTURES)
    _check_width(spec)


def _check_width(spec: ModelSpec) -> None:
    if not 1 <= spec.width <= MAX_WIDTH:
        raise ConfigError(f"width: must be 1 to {MAX_WIDTH} channels, got {spec.width}")
    if spec.num_classes < 1:
        raise ConfigError(f"num_classes: must be 1 or more, got {spec.num_classes}")


def _resnet(spec: ModelSpec, stem: str, block: str) -> nn.Module:
    if block == "post":
        # Source: LQ-Nets' networks of low-bit weights; the float ones start at gamma 1.
        zero_gamma = spec.low_bit_weights
        return ResNet(spec.arch, spec.num_classes, spec.width, stem, zero_gamma)
    bare = block == "preact-bare"
    return PreactResNet(spec.arch, spec.num_classes, spec.width, stem, bare)


def _float_body(spec: ModelSpec) -> nn.Module:
    """The network before anything of it is replaced."""
    if _is_others(spec.arch):
        return _body_of_others(spec)
    _check_resnet(spec)
    stem, _ = choose_stem(spec.stem, spec.resolutions)
    return _resnet(spec, stem, choose_block(spec.block, spec.abits))


def _narrower(spec: ModelSpec, fields: dict[str, Any]) -> Narrower:
    """A network like this one of other channels; no memory is taken for its tensors."""
    with torch.device("meta"):
        return Narrower(_float_body(dataclasses.replace(spec, **fields)), fields)


@functools.lru_cache(maxsize=64)
def weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the weights (two and more dimensions) of the network `build` would make, by name.

    No memory is taken for the tensors. None where torchvision computes with them while it builds
    (RegNets), so that it cannot be told without.

    Raises:
        ConfigError, ModelError: as `build`.
    """
    check_bits(spec.wbits, spec.abits)
    try:
        with torch.device("meta"):
            body = _float_body(spec)
    except NotImplementedError:
        return None
    shapes = {name: tuple(p.shape) for name, p in body.named_parameters() if p.ndim > 1}
    if spec.integer:  # where each is part of a layer
        shapes = {f"{name.removesuffix('weight')}layer.weight": s for name, s in shapes.items()}
    return shapes


def choose_block(block: str, abits: int) -> str:
    """Resolve "auto": the published block for activations of these bits."""
    if block not in BLOCKS:
        raise ConfigError(f"block: must be one of {', '.join(BLOCKS)}, got '{block}'")
    if block == "auto":
        return "preact" if abits < 32 else "post"
    return block


def _is_others(arch: str) -> bool:
    """Whether a network is converted as a user's is; ResNets are not."""
    if mobilenet_v2.width_of(arch) is not None or _is_refinenet(arch):
        return True
    return arch.startswith((TORCHVISION, TIMM))


def _is_refinenet(arch: str) -> bool:
    return variant(arch) is not None


def _from_others(spec: ModelSpec) -> SwitchableNetwork:
    # Built again by every command that loads a checkpoint; training logs the report, once.
    body = _body_of_others(spec)
    if spec.arch.startswith(TIMM) and (spec.mean, spec.std) == _IMAGENET:
        mean, std = timm_normalisation(body)
        spec = dataclasses.replace(spec, mean=mean, std=std)
    network = convert_quietly(body, dataclasses.replace(spec, stem="own", block="own"))
    # The number of classes that was asked for: save looks whether the network gives as many.
    network.spec = dataclasses.replace(network.spec, num_classes=spec.num_classes)
    return network


def own_fields(arch: str) -> dict[str, str]:
    """Fields of a ModelSpec that a network decides by its name, and why."""
    if not _is_others(arch):
        return {}
    if _is_refinenet(arch):
        return dict.fromkeys(("stem", "block"), f"{arch} has its own stem and block")
    whose = "" if mobilenet_v2.width_of(arch) is None else ", its width part of the name"
    return dict.fromkeys(("stem", "block", "width"), f"{arch} is a network as it is{whose}")


def _refinenet(spec: ModelSpec) -> nn.Module:
    which = variant(spec.arch)
    assert which is not None
    if {spec.stem, spec.block} - {"auto", "own"}:
        raise ConfigError(f"{spec.arch}: has its own stem and block; leave them out")
    _check_width(spec)
    return RefineNet(which, spec.num_classes, spec.width)


def _body_of_others(spec: ModelSpec) -> nn.Module:
    if _is_refinenet(spec.arch):
        return _refinenet(spec)
    if {spec.stem, spec.block} - {"auto", "own"} or spec.width != 64:
        named = spec.arch.startswith((TIMM, TORCHVISION))
        whose = f" of {spec.arch.partition(':')[0]}" if named else ""
        other = "" if named else "; its width is part of the name, mobilenet_v2_x0_5"
        raise ConfigError(
            f"{spec.arch}: is a network{whose} as it is; leave out stem, block and width{other}"
        )
    if (width := mobilenet_v2.width_of(spec.arch)) is not None:
        return mobilenet_v2.MobileNetV2(spec.num_classes, width)
    if spec.arch.startswith(TIMM):
        return timm_network(spec.arch.removeprefix(TIMM), spec.num_classes)
    name = spec.arch.removeprefix(TORCHVISION)
    _check_name(name, torchvision.models.list_models(torchvision.models), TORCHVISION)
    body: Any = torchvision_network(name, spec.num_classes)
    network: nn.Module = body
    return network


def _check_name(name: str, valid: Sequence[str], prefix: str = "") -> None:
    if name not in valid:
        hint = did_you_mean(name, valid, prefix)
        raise ConfigError(
            f"arch: unknown network '{prefix}{name}'; {hint}"
            f"known: {', '.join(ARCHITECTURES)}, refinenet_RESNET, torchvision:NAME, timm:NAME"
        )
