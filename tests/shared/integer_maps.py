"""Integer networks made by hand that end in a map, which version 8 of the format has: no torch."""

import integer_networks
import numpy as np

from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.epilogue import EpilogueSpec
from rsquant.packed.ops.resize import ResizeSpec


class Network(integer_networks.Network):
    """With resized values, and convolutions of int8 weights."""

    def resize(self, name, source, mode="bilinear", *, align_corners=False, size=None, like=None,
               scale=None, recompute=False):  # fmt: skip
        output = self.written(self.channels[source])
        target = size, like, scale, recompute
        self.steps.append(ResizeSpec(name, source, output, mode, align_corners, *target))
        return output

    def whole(self, name, source, channels, kernel=3, stride=1, dilation=1, groups=1, bias=True,
              add=None, **end):  # fmt: skip
        """A convolution of int8 weights: floats, or, where `end` says how, bytes or levels."""
        rng, inputs = self.rng, self.channels[source]
        if end:
            epilogue = self.end(name, channels, **end)[0]
        else:
            epilogue = EpilogueSpec(keep=self.written(channels), add=add)
        shape = channels, kernel, kernel, inputs // groups
        self.tensors[f"{name}.weight"] = rng.integers(-64, 65, shape, dtype=np.int8)
        self.tensors[f"{name}.scale"] = rng.uniform(1e-3, 5e-3, channels).astype(np.float32)
        if bias:
            self.tensors[f"{name}.bias"] = rng.normal(size=channels).astype(np.float32)
        padding = (dilation * (kernel - 1) // 2,) * 2
        pairs = (kernel, kernel), (stride, stride), padding, (dilation, dilation)
        self.steps.append(ConvSpec(name, source, inputs, channels, *pairs, groups, epilogue))
        return len(self.channels) - 1


def every_form(seed=0):
    """(plan, tensors): bytes of both zero points resized in each way, and int8 weights of bytes.

    Heads of 3x3 and 1x1, with stride, dilation and groups, with and without bias, of whose floats
    one is resized too; and int8 weights with an integer epilogue.
    """
    net = Network(seed)
    end = dict(keep=True, scale="deep", zero=128)
    stem, _ = net.conv("stem", 0, 8, 3, 2, keep=True, scale="stem", zero=0, relu=True)
    _, a = net.map("quantize", stem, norm=False, quantizer=0)
    four, _ = net.conv("four", a, 4, 1, 1, 0, keep=True, scale="four", zero=0, relu=True)
    own = net.whole("own", four, 4, 3, groups=4, keep=True, scale="own", zero=128)
    low, _ = net.conv("down", a, 8, 3, 2, **end)
    enlarged = net.resize("enlarged", low, like=stem)
    mixed, c = net.conv(
        "mixed", a, 8, add=enlarged, branch_zero=128, quantizer=1, codes_norm=True, **end
    )
    larger = net.resize("larger", own, "nearest-exact", scale=(1.5, 2.0))
    back = net.resize("back", larger, align_corners=True, like=mixed)
    less = net.resize("less", back, "nearest", size=(7, 9))
    # Weights that are halves of parts: 7 / 128 of a pixel from row to row.
    tall = net.resize("tall", less, size=(128, 5))
    six, _ = net.conv("six", tall, 6, 1, 1, 0, keep=True, scale="six", zero=0, relu=True)
    twice = net.resize("twice", six, scale=(1.7, 2.1), recompute=True)
    few = net.whole("few", twice, 3, 1, stride=2, groups=3, bias=False)
    logits = net.resize("logits", few, like=stem)
    of_codes = net.whole("of_codes", c, 3, 3, dilation=2, add=logits)
    of_stem = net.whole("of_stem", stem, 3, 1, add=of_codes)
    net.whole("last", mixed, 3, 3, add=of_stem)
    return net.plan(), net.tensors
