"""The packed program against torch, value by value, in float64.

torch runs the same network in float64 on the program's own activation codes, quantizer by
quantizer, so that one value that falls on the other side of a threshold does not hide what comes
after it. The first convolution and the classifier get the file's int8 weights.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rsquant.nn import QuantConv2d, QuantLinear
from rsquant.packing.write import lowered_network
from rsquant.quantizers import LQActivationQuantizer
from rsquant.runtime.build import build_program
from rsquant.runtime.reference import run

# A chain of residual additions rounds to float32 (2**-24 of the largest value) at most a few
# dozen times before a quantizer sees it: 64 x 2**-24 = 4e-6.
ROUNDING = 1e-5


class PixelConv(nn.Module):
    """The int8 first convolution, of normalised images."""

    def __init__(self, conv, tensors, name, spec):
        super().__init__()
        self.conv, self.spec = conv, spec
        scale = torch.from_numpy(tensors[f"{name}.scale"]).double()
        weight = torch.from_numpy(tensors[f"{name}.weight"]).double().permute(0, 3, 1, 2)
        self.weight = weight * scale.view(-1, 1, 1, 1)
        self.bias = torch.from_numpy(tensors[f"{name}.bias"]).double()

    def forward(self, x):
        mean, std = per_channel(self.spec)
        pixels = ((x * std + mean) * 255).round()
        wide = torch.cat([pixels, torch.full_like(pixels[:, :1], 255)], 1)
        c = self.conv
        return functional.conv2d(wide, self.weight, self.bias, c.stride, c.padding, c.dilation)


def per_channel(spec):
    return (torch.tensor(v).double().view(3, 1, 1) for v in (spec.mean, spec.std))


def normalised(pixels, spec):
    mean, std = per_channel(spec)
    return (pixels.double() / 255 - mean) / std


@torch.no_grad()
def compare(network, pixels, path="x.rsq"):
    """Assert that every code and the logits are what torch's values ask for.

    Args:
        network: on its grid.
        pixels: (N, 3, H, W) uint8.
    Returns:
        How many codes were compared, how many of them were ties; the logits.
    """
    packed, lowered = lowered_network(network, path)
    program = build_program(packed, *pixels.shape[2:])
    logits, values = run(program, pixels.numpy(), every=True)
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, (QuantConv2d, QuantLinear)):
            module.hold()
            module._held = module._held.double()
    twin.double()
    counts = {"compared": 0, "ties": 0}

    def force(name):
        spec = packed.plan.quantizers[packed.values[lowered.codes[name]].quantizer]
        stored = values[lowered.codes[name]]

        def replace(given):
            x = given.numpy()
            bytes_ = stored.transpose(0, 3, 1, 2) if x.ndim == 4 else stored[:, 0, 0]
            assert bytes_.shape == x.shape
            codes = (x[..., None] > spec.thresholds).sum(-1)
            differ = spec.codes[codes] != bytes_
            distance = np.abs(x[..., None] - spec.thresholds).min(-1)
            assert (distance[differ] <= ROUNDING * np.abs(x).max()).all(), name
            counts["compared"] += x.size
            counts["ties"] += int(differ.sum())
            return torch.from_numpy((bytes_.astype(float) - spec.zero) * spec.scale)

        return replace

    for name, module in list(twin.body.named_modules()):
        if isinstance(module, LQActivationQuantizer):
            assert name in lowered.codes, f"{name} was lost"
            module.forward = force(name)
    first, last = packed.plan.steps[0], packed.plan.steps[-1]
    parent, _, child = first.name.rpartition(".")
    conv = twin.body.get_submodule(first.name)
    setattr(twin.body.get_submodule(parent), child,
            PixelConv(conv, packed.tensors, first.name, network.spec))  # fmt: skip
    linear = twin.body.get_submodule(last.name)
    weight = packed.tensors[f"{last.name}.weight"] * packed.tensors[f"{last.name}.scale"][:, None]
    linear.weight.copy_(torch.from_numpy(weight))
    if isinstance(linear, QuantLinear):
        linear._held = linear.weight
    seen = []
    linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    expected = twin(normalised(pixels, network.spec)).numpy()
    # Each input is rounded to a multiple of m / limit: half of it, times the weights. int8 holds
    # the float32 rounding of the rest.
    features = weight.shape[1]
    limit = min(32767, (2**31 - 1) // (127 * features))
    m = float(seen[-1].abs().max())
    tolerance = np.abs(weight).sum(1) * m * (0.5 / limit + ROUNDING) + ROUNDING
    assert (np.abs(logits - expected) <= tolerance).all()
    assert counts["ties"] <= 1e-3 * counts["compared"] + 2
    return counts["compared"], counts["ties"], logits
