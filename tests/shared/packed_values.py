"""The packed program against torch, value by value, in float64.

torch runs the same network in float64 on the program's own activation codes, quantizer by
quantizer, so that one value that falls on the other side of a threshold does not hide what comes
after it. The first convolution gets the file's 16-bit weights, the classifier or head its int8
ones, and a convolution of floats its input as the file rounds it.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsquant.kernels import reference
from rsquant.nn import QuantConv2d, QuantLinear
from rsquant.packed.build import build_program
from rsquant.packed.ops.conv import ConvStep
from rsquant.packed.program import run
from rsquant.packing.write import lowered_network
from rsquant.quantizers import ActivationQuantizer

# A chain of residual additions rounds to float32 (2**-24 of the largest value) at most a few
# dozen times before a quantizer sees it: 64 x 2**-24 = 4e-6.
ROUNDING = 1e-5


class PixelConv(nn.Module):
    """The 16-bit first convolution, of normalised images."""

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
        # Zeros that a layer padded; no pixel is 0 when it is normalised.
        wide = wide * (x != 0).any(1, keepdim=True)
        # With its own stride, padding and dilation.
        return self.conv._conv_forward(wide, self.weight, self.bias)


def per_channel(spec):
    return (torch.tensor(v).double().view(3, 1, 1) for v in (spec.mean, spec.std))


def normalised(pixels, spec):
    mean, std = per_channel(spec)
    return (pixels.double() / 255 - mean) / std


@torch.no_grad()
def compare(network, pixels, rounding=None, pads=None, own_head=False):
    """Assert that every code and the logits are what torch's values ask for.

    Args:
        network: on its grid.
        pixels: (N, 3, H, W) uint8.
        rounding: where given, torch's inputs are not rounded for convolutions of floats, and
            rounding(program) is how far each of the classifier's inputs may be off.
        pads: by name, what quantizers read beyond what the program stores, which pads by itself:
            top, left, bottom and right; below 0 what the program stores beyond them.
        own_head: torch's logits are of float weights, not of the file's int8 ones.
    Returns:
        How many codes were compared, how many of them were ties, and the logits.
    """
    packed, lowered = lowered_network(network, Path("x.rsq"))
    program = build_program(packed, *pixels.shape[2:])
    logits, values = run(program, pixels.numpy(), every=True)
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, (QuantConv2d, QuantLinear)):
            module.held.value = {k: w.double() for k, w in module.weights_to_hold().items()}
    twin.double()
    counts = {"compared": 0, "ties": 0}

    def force(name):
        numbers = iter(lowered.codes.get(name, []))

        def replace(given):
            number = next(numbers)  # a quantizer that was lost has none
            spec = packed.plan.quantizers[packed.values[number].quantizer]
            stored = values[number]
            if name in (pads or {}):
                top, left, bottom, right = pads[name]
                height, width = stored.shape[1:3]
                stored = stored[:, max(-top, 0) : height + min(bottom, 0)]
                stored = stored[:, :, max(-left, 0) : width + min(right, 0)]
                ends = (top, bottom), (left, right)
                ends = (0, 0), *((max(a, 0), max(b, 0)) for a, b in ends), (0, 0)
                stored = np.pad(stored, ends, constant_values=spec.zero)
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

    def round_input(name):
        steps = iter(
            step
            for step in program.steps
            if isinstance(step, ConvStep) and step.name.partition("@")[0] == name
        )

        def replace(_, args):
            step, x = next(steps), args[0].numpy()
            stored = values[step.input]
            integers = reference.fixed_point(stored, step.inverse_step, step.input_limit)
            rounded = integers / np.float64(step.inverse_step or 1)
            if step.inverse_step:
                # Half a step, and 2**-24 of up to 2**15 steps; nothing is beyond the limit.
                assert (np.abs(rounded - stored) <= 0.502 / step.inverse_step).all(), name
            stored, rounded = (
                v.transpose(0, 3, 1, 2) if x.ndim == 4 else v[:, 0, 0] for v in (stored, rounded)
            )
            assert (np.abs(stored - x) <= ROUNDING * np.abs(x).max()).all(), name
            counts["compared"] += x.size
            return (torch.from_numpy(np.ascontiguousarray(rounded)),)

        return replace

    first, last = packed.plan.steps[0], packed.plan.steps[-1]
    of_floats = {
        step.name.partition("@")[0]
        for step in program.steps
        if isinstance(step, ConvStep) and step.inverse_step is not None
    }
    for name, module in list(twin.body.named_modules()):
        if isinstance(module, ActivationQuantizer):
            module.forward = force(name)
        elif rounding is None and name in of_floats:
            module.register_forward_pre_hook(round_input(name))
    parent, _, child = first.name.rpartition(".")
    conv = twin.body.get_submodule(first.name)
    setattr(
        twin.body.get_submodule(parent),
        child,
        PixelConv(conv, packed.tensors, first.name, network.spec),
    )
    scale = packed.tensors[f"{last.name}.scale"]
    weight = packed.tensors[f"{last.name}.weight"].astype(np.float64)
    maps = packed.plan.gives_maps
    if maps:
        weight = weight.transpose(0, 3, 1, 2)
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if not own_head:
        linear = twin.body.get_submodule(last.name)
        linear.weight.copy_(torch.from_numpy(weight).reshape(linear.weight.shape))
        if isinstance(linear, QuantLinear):
            linear.held.value = {0: linear.weight}
    weight = weight.reshape(len(weight), -1)
    expected = twin(normalised(pixels, network.spec)).numpy()
    # Each input is rounded to a multiple of m / limit: half of it, times the weights. int8 holds
    # the float32 rounding of the rest.
    features = weight.shape[1]
    limit = min(32767, (2**31 - 1) // (127 * features))
    # Of a map torch's inputs are rounded as the file's.
    step = 0 if maps and rounding is None else 0.5 / limit
    m = float(np.abs(values[program.steps[-1].input]).max())
    tolerance = np.abs(weight).sum(1) * m * (step + ROUNDING) + ROUNDING
    if own_head:  # each weight is rounded by at most half a scale
        tolerance = tolerance + 0.5 * scale * features * m
    if rounding is not None:
        tolerance = tolerance + np.abs(weight) @ rounding(program)
    if maps:
        tolerance = tolerance[:, None, None]
    assert (np.abs(logits - expected) <= tolerance).all()
    assert counts["ties"] <= 1e-3 * counts["compared"] + 2
    return counts["compared"], counts["ties"], logits
