"""Integer networks made by hand, and what docs/integer.md says of them in plain numpy: no torch.

`run` follows the fields of the file's steps one by one, with sums in int64, float32 arithmetic
written out and levels counted from round(y); it shares with the package nothing but how a BatchNorm
is blended and folded (`fold`) and `multiplier_and_bias`.
"""

import numpy as np
from integer_network import odd

from rsquant.packed import fold, integers
from rsquant.packed.ops.avgpool import AvgPoolSpec
from rsquant.packed.ops.byte_average import ByteOutput
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.integer_epilogue import IntegerEpilogueSpec
from rsquant.packed.ops.linear import LinearSpec
from rsquant.packed.ops.map import MapSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packed.plan import NetworkSpec, Plan, QuantizerSpec, plane_bytes
from rsquant.settings import blend, side

F32 = np.float32
QUANTIZERS = (
    QuantizerSpec(2, (1, 2), 0.21),
    QuantizerSpec(3, (-4, 1, 2), 0.4),
    QuantizerSpec(1, (3,), 0.3),
    QuantizerSpec(4, (1, 2, 4, 8), 0.1),
)


class Network:
    """Collects steps and random tensors; a value's number is what a method returns.

    Args:
        extreme: BatchNorms with gammas of 0, huge shifts and sums that saturate.
    """

    def __init__(self, seed=0, sizes=(24, 16), classes=3, extreme=False):
        self.rng = np.random.default_rng(seed)
        self.sizes, self.classes, self.extreme = sizes, classes, extreme
        self.steps, self.tensors = [], {}
        self.channels = [4]
        self._scales = {}

    def scale(self, name, size=0.03):
        """A scale of bytes, one per setting."""
        if name not in self.tensors:
            spread = self.rng.uniform(0.9, 1.1, len(self.sizes))
            self.tensors[name] = (size * spread).astype(F32)
        return name

    def norm(self, name, channels):
        rng, rows = self.rng, len(self.sizes)
        table = rng.normal(size=(4, rows, channels)).astype(F32)
        table[3] = np.abs(table[3]) + 0.2
        if self.extreme:
            table[0, :, ::3] = 0
            table[1, :, ::5] *= 1e6
            table[0, :, 1::4] *= 1e4
        self.tensors[name] = table
        return name

    def written(self, channels):
        self.channels.append(channels)
        return len(self.channels) - 1

    def end(
        self,
        name,
        channels,
        *,
        norm=True,
        scale=None,
        zero=None,
        keep=False,
        quantizer=None,
        codes_norm=False,
        **fields,
    ):
        """An epilogue, and the values it writes: (epilogue, bytes or None, codes or None)."""
        kept = self.written(channels) if keep else None
        codes = self.written(channels) if quantizer is not None else None
        epilogue = IntegerEpilogueSpec(
            norm=self.norm(f"{name}.norm", channels) if norm else None,
            eps=1e-5 if norm else 0.0,
            scale=None if scale is None else self.scale(scale),
            zero=zero,
            keep=kept,
            codes=codes,
            codes_norm=self.norm(f"{name}.behind", channels) if codes_norm else None,
            codes_eps=1e-5 if codes_norm else 0.0,
            quantizer=quantizer,
            **fields,
        )
        return epilogue, kept, codes

    def conv(
        self, name, source, channels, kernel=3, stride=1, padding=1, dilation=1, groups=1, **end
    ):
        rng, inputs = self.rng, self.channels[source]
        taps = kernel * kernel * inputs // groups
        if source == 0:
            self.tensors[f"{name}.weight"] = rng.integers(
                -64, 65, (channels, kernel, kernel, 3), dtype=np.int8
            )
            self.tensors[f"{name}.bias"] = rng.normal(size=channels).astype(F32)
            unit = 1e-3
        else:
            bits = rng.integers(0, 2, (2, channels, taps), dtype=np.uint8)
            packed = np.packbits(bits, axis=-1, bitorder="little")
            planes = np.zeros((2, channels, plane_bytes(taps)), np.uint8)
            planes[:, :, : packed.shape[-1]] = packed
            self.tensors[f"{name}.weight"] = planes
            self.tensors[f"{name}.basis"] = rng.integers(-7, 8, (channels, 2), dtype=np.int8)
            unit = 0.3 / taps**0.5
        self.tensors[f"{name}.scale"] = rng.uniform(0.5, 1.5, channels).astype(F32) * F32(unit)
        epilogue, *written = self.end(name, channels, **end)
        pair = ((kernel, kernel), (stride, stride), (padding, padding), (dilation, dilation))
        self.steps.append(ConvSpec(name, source, inputs, channels, *pair, groups, epilogue))
        return written

    def map(self, name, source, **end):
        epilogue, *written = self.end(name, self.channels[source], **end)
        self.steps.append(MapSpec(name, source, epilogue))
        return written

    def max_pool(self, name, source):
        output = self.written(self.channels[source])
        self.steps.append(MaxPoolSpec(name, source, output, (3, 3), (2, 2), (1, 1)))
        return output

    def finish(self, source, scale, zero=0):
        """An average and the classifier; the plan."""
        channels = self.channels[source]
        pooled = self.written(channels)
        self.steps.append(
            AvgPoolSpec(
                "pool",
                source,
                pooled,
                None,
                0.0,
                False,
                None,
                ByteOutput(self.scale(scale, 0.02), zero),
            )
        )
        logits = self.written(self.classes)
        self.steps.append(LinearSpec("last", pooled, logits, channels, self.classes))
        self.tensors["last.weight"] = self.rng.integers(
            -64, 65, (self.classes, channels), dtype=np.int8
        )
        self.tensors["last.scale"] = self.rng.uniform(0.01, 0.1, self.classes).astype(F32)
        self.tensors["last.bias"] = self.rng.normal(size=self.classes).astype(F32)
        return self.plan()

    def plan(self):
        """The plan of the steps so far."""
        network = NetworkSpec(
            "handmade",
            2,
            2,
            self.sizes,
            self.classes,
            (),
            (0.46,) * 3,
            (0.2,) * 3,
            "coarse",
            4,
            118,
        )
        return Plan(network, QUANTIZERS, tuple(self.steps), "0.2.0")


def every_step(seed=0, extreme=False, width=8):
    """(plan, tensors) with each operation, and each way that an epilogue may end."""
    net = Network(seed, extreme=extreme)
    end = dict(scale="sum", zero=0, relu=True)
    stem, _ = net.conv("stem", 0, width, 3, 2, keep=True, **end)
    pooled = net.max_pool("maxpool", stem)
    _, a = net.map("quantize", pooled, norm=False, quantizer=0)
    _, b = net.conv("block.1", a, width + 5, quantizer=0, relu=True)
    kept, c = net.conv(
        "block.2", b, width, keep=True, add=pooled, branch_zero=128, quantizer=1, codes_norm=True,
        codes_relu=True, **end,
    )  # fmt: skip
    shortcut, _ = net.conv("short", c, width, 1, 1, 0, keep=True, scale="sum", zero=128)
    _, d = net.conv(
        "last.1", c, width, 3, 1, 2, 2, 2 if width % 2 == 0 else 1, quantizer=3, relu=True, clip=0.9
    )
    signed, e = net.conv(
        "last.2", d, width, 3, 1, 1, keep=True, add=shortcut, branch_zero=128, scale="sum",
        zero=128, quantizer=1, codes_norm=True,
    )  # fmt: skip
    _, f = net.map("levels", signed, quantizer=2, relu=True, norm=True)
    own, _ = net.map(
        "sum", signed, keep=True, norm=False, add=kept, branch_zero=128, scale="sum", zero=0
    )
    deep, _ = net.conv(
        "depth",
        e,
        width,
        3,
        1,
        1,
        groups=width,
        keep=True,
        scale="deep",
        zero=0,
        relu=True,
        clip=2.0,
    )
    wide, _ = net.conv("bytes", deep, 2 * width + 1, 1, 1, 0, keep=True, scale="wide", zero=128)
    again, g = net.map(
        "norms", own, keep=True, scale="wide", zero=128, quantizer=0, codes_norm=True, clip=None
    )
    more, _ = net.map("of_codes", f, keep=True, norm=False, scale="wide", zero=128)
    both, _ = net.map(
        "both", more, keep=True, add=again, branch_zero=128, scale="wide", zero=128, norm=True
    )
    _, h = net.map("quantized", both, quantizer=0, scale="wide", zero=0, codes_norm=True)
    tail, _ = net.conv(
        "tail", h, 2 * width + 1, 3, 1, 1, keep=True, add=wide, branch_zero=0, scale="wide", zero=0
    )
    net.conv("unread", g, 3, 1, 1, 0, quantizer=0)
    # 15 thresholds of a map, of a sum of few taps, of a byte.
    _, i = net.map("fine", signed, quantizer=3, relu=True, norm=True)
    _, j = net.conv("fine_depth", i, width, 3, 1, 1, groups=width, quantizer=3, relu=True)
    net.conv(
        "fine_bytes", j, width + 3, 1, 1, 0, keep=True, quantizer=3, codes_norm=True,
        codes_relu=True, **end,
    )  # fmt: skip
    return net.finish(tail, "pooled"), net.tensors


def run(plan, tensors, pixels):
    """All values by number, the image first: uint8 (N, H, W, C), of the logits float32.

    Args:
        pixels: (N, 3, H, W) uint8.
    """
    rows = blend(plan.network.settings, side(*pixels.shape[2:]))
    image = np.full((len(pixels), *pixels.shape[2:], 4), 255, np.uint8)
    image[..., :3] = pixels.transpose(0, 2, 3, 1)
    state = _State(plan, tensors, rows)
    state.add(image, plan.network.zero, 1.0, None)
    for step in plan.steps:
        state.step(step)
    return state.values


class _State:
    def __init__(self, plan, tensors, rows):
        self.plan, self.tensors, self.rows = plan, tensors, rows
        self.values, self.zeros, self.units = [], [], []

    def add(self, value, zero, unit, quantizer):
        self.values.append(value)
        self.zeros.append(zero)
        self.units.append(unit)

    def unit(self, name):
        upper, lower, weight = self.rows
        one, other = (float(self.tensors[name][i]) for i in (upper, lower))
        return one + weight * (other - one)

    def step(self, step):
        if isinstance(step, MaxPoolSpec):
            return self.max_pool(step)
        x, zero, unit = (of[step.input] for of in (self.values, self.zeros, self.units))
        code = x.astype(np.int64) - zero
        if isinstance(step, MapSpec):
            channels = x.shape[-1]
            slope = np.full(channels, unit / 64)
            return self.end(step.epilogue, 64 * code, slope, np.zeros(channels))
        if isinstance(step, AvgPoolSpec):
            own, zero = self.unit(step.bytes.scale), step.bytes.zero
            n = code.sum((1, 2), keepdims=True)
            factor = F32(unit / (own * (x.shape[1] * x.shape[2])))
            y = np.clip(np.rint(factor * n.astype(F32)), -zero, 255 - zero)
            return self.add((y + zero).astype(np.uint8), zero, own, None)
        scale = self.tensors[f"{step.name}.scale"].astype(np.float64)
        bias = self.tensors.get(f"{step.name}.bias", np.zeros(len(scale))).astype(np.float64)
        weight = self.tensors[f"{step.name}.weight"]
        if isinstance(step, LinearSpec):
            a, b = integers.multiplier_and_bias(scale * unit, bias)
            n = code[:, 0, 0] @ weight.astype(np.int64).T
            return self.add((a * (n + b).astype(F32))[:, None, None], 0, 1.0, None)
        if step.input == 0:
            code, weight = code[..., :3], weight.astype(np.int64)
        else:
            weight = self.levels(step)
        self.end(step.epilogue, convolve(code, weight, step), scale * unit, bias)

    def levels(self, step):
        planes = self.tensors[f"{step.name}.weight"]
        basis = self.tensors[f"{step.name}.basis"].astype(np.int64)
        bits = np.unpackbits(planes, axis=-1, bitorder="little", count=step.taps).astype(np.int64)
        levels = ((2 * bits - 1) * basis.T[:, :, None]).sum(0)
        return levels.reshape(step.out_channels, *step.kernel, -1)

    def max_pool(self, step):
        x = self.values[step.input]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
        self.add(windows.max((-1, -2)), self.zeros[step.input], self.units[step.input], None)

    def normed(self, name, eps, slope, shift):
        if name is None:
            return slope, shift
        a, b = fold.affine(fold.blended(self.tensors[name], self.rows), eps)
        return a * slope, a * shift + b

    def end(self, e, n, slope, shift):
        slope, shift = self.normed(e.norm, e.eps, slope, shift)
        if e.scale is None:
            return self.quantized(e, n, slope, shift, e.relu, e.clip)
        unit = self.unit(e.scale)
        signed = (e.zero if e.add is None else e.branch_zero) > 0
        y = rounded(n, odd(slope / unit) if signed else slope / unit, shift / unit)
        low, high = (0 if e.relu else -e.zero), 255 - e.zero
        if e.clip is not None:
            high = min(high, round(e.clip / unit))
        if e.add is None:
            code = np.clip(y, low, high)
        else:
            code = np.clip(y, -e.branch_zero, 255 - e.branch_zero).astype(np.int64)
            code = np.clip(code + self.values[e.add] - self.zeros[e.add], low, high)
        code = code.astype(np.int64)
        if e.keep is not None:
            assert e.keep == len(self.values)
            self.add((code + e.zero).astype(np.uint8), e.zero, unit, None)
        if e.codes is not None:
            slope, shift = np.full(n.shape[-1], unit / 64), np.zeros(n.shape[-1])
            slope, shift = self.normed(e.codes_norm, e.codes_eps, slope, shift)
            self.quantized(e, 64 * code, slope, shift, e.codes_relu, e.codes_clip)

    def quantized(self, e, n, slope, shift, relu, clip):
        quantizer = self.plan.quantizers[e.quantizer]
        levels, half = quantizer.levels, quantizer.scale / 2
        y = rounded(n, slope / half, shift / half + 0.5)
        if relu:  # of the value 0, y is 1/2, which rounds to 0
            y = np.maximum(y, 0)
        bounds = levels[:-1] + levels[1:]
        passed = [(y > b) & (clip is None or clip > half * b) for b in bounds]
        found = quantizer.codes[np.sum(passed, 0)]
        assert e.codes == len(self.values)
        self.add(found, quantizer.zero, quantizer.scale, e.quantizer)


def rounded(n, slope, shift):
    """round(a * float32(n + B)) in float32."""
    a, b = integers.multiplier_and_bias(slope, shift)
    return np.rint(a * (n + b).astype(np.int32).astype(F32))


def convolve(code, weight, step):
    """Sums of products of codes (N, H, W, C) and weights (O, kh, kw, C / groups), int64."""
    kernel, dilation = step.kernel, step.dilation
    padded = np.pad(code, ((0, 0), *((p, p) for p in step.padding), (0, 0)))
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, (1, 2))
    windows = windows[:, :: step.stride[0], :: step.stride[1], :, :: dilation[0], :: dilation[1]]
    per, out = weight.shape[-1], len(weight) // step.groups
    return np.concatenate(
        [
            np.einsum(
                "nyxcij,oijc->nyxo",
                windows[:, :, :, g * per : (g + 1) * per],
                weight[g * out : (g + 1) * out],
            )
            for g in range(step.groups)
        ],
        -1,
    )
