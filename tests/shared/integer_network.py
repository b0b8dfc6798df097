"""An integer network in numpy, by docs/integer.md, written apart from rsquant's own.

Products and sums are exact: they are computed in float64, far below 2^53.
"""

import itertools
import operator
from fractions import Fraction

import numpy as np
import torch
from torch import fx

from rsquant.nn.integer import layers
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerHead, IntegerLinear
from rsquant.nn.integer.resize import IntegerResize
from rsquant.nn.norm import SwitchableBatchNorm2d

PARTS = 128


def run(network, pixels, size):
    """Codes of every layer, by name, for (N, 3, size, size) uint8; the classifier gives logits."""
    values, found, sizes = {}, {}, {}
    rows = network.active.blend(size)
    modules = dict(network.body.named_modules())
    mean = network.spec.mean
    zero = round(255 * sum(mean) / 3)
    for node in network.body.graph.nodes:
        read = [values[n] for n in node.all_input_nodes if n in values]
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            # A code and what it is worth.
            values[node] = pixels.numpy().astype(np.int64) - zero, 1.0
        elif node.op == "output":
            break
        elif node.target is getattr:
            sizes[node] = values[node.args[0]][0].shape
        elif node.target is operator.getitem:
            sizes[node] = sizes[node.args[0]][node.args[1]]
        elif isinstance(module, torch.nn.MaxPool2d):
            values[node] = max_pool(read[0][0], module), read[0][1]
        elif isinstance(module, IntegerResize):
            assert module.mode == "bilinear"
            size = fx.node.map_arg(node.args[1], sizes.__getitem__)
            code, step = read[0]
            values[node] = blended(code, size, module.align_corners), step
            found[node.target] = values[node][0]
        elif type(module).__name__.startswith("Integer"):
            values[node] = layer(network, module, read, rows)
            found[node.target] = values[node][0]
        elif module is not None or node.target in (torch.flatten, "flatten"):
            code, step = read[0]
            flat = node.target in (torch.flatten, "flatten")
            values[node] = (code.reshape(len(code), -1) if flat else code), step
        else:
            raise AssertionError(f"{node} is not known here")
    return found


def layer(network, module, read, rows):
    code, step = read[0]
    if isinstance(module, layers.IntegerSum):
        out = step_of(module.out, rows)
        assert out == step == read[1][1]
        low, high = (0, 255) if module.out.low == 0 else (-128, 127)
        return np.clip(code + read[1][0], low, high), out
    if isinstance(module, layers.IntegerAverage):
        out = step_of(module.out, rows)
        a = np.float32(step / (out * code.shape[2] * code.shape[3]))
        total = code.sum((2, 3), keepdims=module.pool.keep)
        low, high = (0, 255) if module.out.low == 0 else (-128, 127)
        return np.clip(np.rint(a * total.astype(np.float32)), low, high).astype(np.int64), out
    if isinstance(module, IntegerLinear):
        weight = module.layer.weight.detach().numpy()
        integers, scale = to_64(weight)
        n = code.astype(np.float64) @ integers.T.astype(np.float64)
        slope = scale.astype(np.float64) * step
        a, bias = affine(slope, module.layer.bias.detach().numpy().astype(np.float64))
        return a * (n.astype(np.int64) + bias).astype(np.float32), 1.0
    if isinstance(module, IntegerHead):
        integers, scale = to_64(module.layer.weight.detach().numpy())
        n = convolve(code, integers, module.layer).astype(np.float32)
        a = (scale.astype(np.float64) * step).astype(np.float32)
        return n * a.reshape(-1, 1, 1) + module.layer.bias.detach().numpy().reshape(-1, 1, 1), 1.0
    norm = norm_of(module.norm, rows)
    if isinstance(module, layers.IntegerMap):
        n, scale = 64 * code, np.full(code.shape[1], 1 / 64)
    elif isinstance(module, layers.IntegerImageConv):
        std = np.float32(network.spec.std).reshape(3, 1, 1)
        real = module.layer.weight.detach().numpy() / (np.float32(255) * std)
        integers, scale = to_64(real)
        n = convolve(code, integers, module.layer)
    else:
        integers, scale = levels_of(module.layer)
        n = convolve(code, integers, module.layer)
    slope = scale.astype(np.float64) * step
    shift = np.zeros_like(slope)
    bias = getattr(getattr(module, "layer", None), "bias", None)
    if bias is not None:
        shift = bias.detach().double().numpy()
    if norm is not None:
        slope, shift = norm[0] * slope, norm[0] * shift + norm[1]
    return finish(module, n, slope, shift, rows)


def whole_weights(side, out, aligned):
    """Of each pixel of a resized map: the two it lies between, and their weights of 128."""
    for i in range(out):
        if out == side:
            place = Fraction(i)
        elif aligned:
            place = Fraction(i * (side - 1), out - 1) if out > 1 else Fraction(0)
        else:
            place = max(Fraction(side, out) * (i + Fraction(1, 2)) - Fraction(1, 2), Fraction(0))
        first = min(place.numerator // place.denominator, side - 1)
        second = round(PARTS * float(place - first))
        yield first, min(first + 1, side - 1), PARTS - second, second


def blended(x, size, aligned):
    """In whole numbers, halves to even."""
    n, c, height, width = x.shape
    result = np.zeros((n, c, *size), np.int64)
    for y, (top, bottom, up, down) in enumerate(whole_weights(height, size[0], aligned)):
        for z, (left, right, before, after) in enumerate(whole_weights(width, size[1], aligned)):
            total = up * (before * x[:, :, top, left] + after * x[:, :, top, right])
            total += down * (before * x[:, :, bottom, left] + after * x[:, :, bottom, right])
            quotient, rest = np.divmod(total, PARTS * PARTS)
            half = PARTS * PARTS // 2
            result[:, :, y, z] = quotient + ((rest > half) | ((rest == half) & (quotient % 2 == 1)))
    return result


def vary(network):
    """BatchNorms and scales of bytes that differ from channel to channel and size to size."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                values.data.add_(0.3 * torch.randn(values.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        if isinstance(module, ByteScale):
            module.peak.mul_(0.2 + torch.rand(module.peak.shape, generator=generator))
            module.refresh()


def finish(module, n, slope, shift, rows):
    out, step = module.out, step_of(module.out, rows)
    if isinstance(out, Bytes):
        y = sequence(n, *affine(slope / step if module.relu else odd(slope / step), shift / step))
        low, high = (0, 255) if module.relu else (-128, 127)
        if module.clip is not None:
            high = min(high, int(np.rint(module.clip / step)))
        return np.clip(np.rint(y), low, high).astype(np.int64), step
    form = out.on_grid()
    levels = np.array(
        [
            int(form.offset) + sum(int(form.basis[k]) * (int(p) >> k & 1) for k in range(out.bits))
            for p in form.patterns
        ]
    )
    half = step / 2
    y = np.rint(sequence(n, *affine(slope / half, shift / half + 0.5)))
    if module.relu:
        y = np.maximum(y, 0)
    clip = np.inf if module.clip is None else module.clip
    bounds = [one + two for one, two in itertools.pairwise(levels) if clip > half * (one + two)]
    number = sum(((y > bound).astype(np.int64) for bound in bounds), np.zeros(y.shape, np.int64))
    return levels[number], step


def odd(slope):
    """What multiplies a sum that becomes a byte: of 1/128 to 1 the nearest odd part of 32,768."""
    parts = [int(abs(a) * 2**15) | 1 for a in slope]
    some = [
        abs(a) if not 1 / 128 <= abs(a) < 1 else m / 2**15
        for a, m in zip(slope, parts, strict=True)
    ]
    return np.copysign(some, slope)


def affine(slope, shift):
    least = np.maximum(np.abs(shift) / 2**30, float(np.finfo(np.float32).tiny))
    assert (np.abs(slope) > 2 * least).all(), "a slope of almost 0: not for this reference"
    a = slope.astype(np.float32)
    return a, np.float32(np.rint(shift / a.astype(np.float64))).astype(np.int64)


def sequence(n, a, bias):
    shape = (1, -1) + (1,) * (n.ndim - 2)
    return a.reshape(shape) * (n + bias.reshape(shape)).astype(np.float32)


def step_of(value, rows):
    if not isinstance(value, Bytes):
        return float(value.on_grid().scale)
    table = value.scale.step.double().numpy()
    return float(table[rows.i] + rows.weight * (table[rows.j] - table[rows.i]))


def norm_of(norm, rows):
    if norm is None:
        return None
    gamma, beta, mean, var = (
        t[rows.i] + rows.weight * (t[rows.j] - t[rows.i])
        for t in (
            x.detach().double().numpy()
            for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
    )
    a = gamma / np.sqrt(var + norm.eps)
    return a, beta - mean * a


def to_64(real):
    rows = real.reshape(len(real), -1)
    scale = np.abs(rows).max(1) / np.float32(64)
    return np.rint(rows / scale[:, None]).reshape(real.shape).astype(np.int64), scale


def levels_of(conv):
    """Integer weights by brute force: the nearest level of each channel."""
    quantizer = conv.weight_quantizer
    form = quantizer.on_grid()
    digits = (form.patterns.numpy()[..., None] >> np.arange(quantizer.bits)) & 1
    basis = form.basis.numpy()
    levels = form.offset.numpy()[:, None] + (digits * basis[:, None]).sum(-1)
    weight = conv.weight.detach().numpy().reshape(len(basis), -1)
    real = quantizer.levels().numpy()
    middle = np.float32(0.5) * (real[:, 1:] + real[:, :-1])
    number = (weight[:, :, None] > middle[:, None]).sum(-1)
    return np.take_along_axis(levels, number, 1).reshape(conv.weight.shape), form.scale.numpy()


def convolve(code, weight, conv):
    (top, left), (down, across) = conv.padding, conv.stride
    padded = np.pad(code.astype(np.float64), ((0, 0), (0, 0), (top, top), (left, left)))
    kh, kw = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (2, 3))
    windows = windows[:, :, ::down, ::across]
    groups, outputs = conv.groups, len(weight)
    inputs, each = weight.shape[1], outputs // conv.groups
    results = []
    for g in range(groups):
        part = windows[:, g * inputs : (g + 1) * inputs]
        own = weight[g * each : (g + 1) * each].reshape(each, -1).astype(np.float64)
        columns = part.transpose(0, 2, 3, 1, 4, 5).reshape(*part.shape[:1], *part.shape[2:4], -1)
        results.append((columns @ own.T).transpose(0, 3, 1, 2))
    return np.concatenate(results, 1).astype(np.int64)


def max_pool(code, pool):
    pad, kernel, stride = pool.padding, pool.kernel_size, pool.stride
    padded = np.pad(
        code, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=np.iinfo(np.int64).min
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))
    return windows[:, :, ::stride, ::stride].max((4, 5))
