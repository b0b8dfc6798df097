"""Paddings that a forward computes from sizes pack; all else that depends on the size is named."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import rsquant
from rsquant import runtime
from rsquant.errors import PackError
from rsquant.packed.file import open_packed
from rsquant.packing.grid import on_grid
from rsquant.packing.write import pack

SIZES = (33, 24)


def same_pads(x, kernel, stride, value=0.0):
    """As timm's pad_same: nothing at all where nothing is needed."""
    height, width = x.size()[-2:]
    down = max((math.ceil(height / stride) - 1) * stride + kernel - height, 0)
    across = max((math.ceil(width / stride) - 1) * stride + kernel - width, 0)
    if down > 0 or across > 0:
        ends = [across // 2, across - across // 2, down // 2, down - down // 2]
        x = functional.pad(x, ends, value=value)
    return x


class MaxPool2dSame(nn.MaxPool2d):
    """As timm's."""

    def forward(self, x):
        x = same_pads(x, self.kernel_size, self.stride, value=-math.inf)
        return functional.max_pool2d(x, self.kernel_size, self.stride, (0, 0))


class ConvSame(nn.Module):
    """Hand-written, with a convolution as its part."""

    def __init__(self, kernel, stride, **options):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, kernel, stride, bias=False, **options)

    def forward(self, x):
        return self.conv(same_pads(x, self.conv.kernel_size[0], self.conv.stride[0]))


class LowerPool(nn.Module):
    """Pads of zeros in front of a ReLU and a max-pooling, the odd one before the map."""

    def forward(self, x):
        odd = x.shape[3] % 2, x.shape[2] % 2
        x = functional.relu(functional.pad(x, (odd[0], 0, odd[1], 0)))
        return functional.max_pool2d(x, 2)


class TwoReaders(nn.Module):
    """One padded map that two convolutions read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 3, 2, groups=2)

    def forward(self, x):
        x = same_pads(x, 3, 2)
        return self.a(x) + self.b(x)


class Stride1(nn.Module):
    """Computed from the size, and the same at each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 5)

    def forward(self, x):
        return self.conv(same_pads(x, 5, 1))


class Looks(nn.Module):
    """Sizes that lead to nothing."""

    def forward(self, x):
        if x.ndim != 4 or x.shape[2] < 1:
            raise ValueError(x.shape)
        return x


class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.middle = middle
        self.norm2, self.conv, self.fc = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.middle(functional.relu(self.norm(self.stem(x))))
        return self.fc(self.conv(functional.relu(self.norm2(x))).mean((2, 3)))


def packable(middle, signed_norms):
    torch.manual_seed(0)
    return on_grid(signed_norms(rsquant.convert(Net(middle), 2, 2, SIZES)), "coarse").network


KINDS = {
    "max-pooling": (lambda: nn.Sequential(MaxPool2dSame(3, 2), nn.Conv2d(8, 8, 1)), "same"),
    "max-pooling 2": (lambda: nn.Sequential(MaxPool2dSame(2, 2), nn.Conv2d(8, 8, 1)), "same"),
    "deep": (lambda: nn.Sequential(nn.MaxPool2d(2), MaxPool2dSame(3, 2), ConvSame(3, 2)), "same"),
    "convolution": (lambda: ConvSame(3, 2), "same"),
    "depthwise": (lambda: nn.Sequential(ConvSame(5, 2, groups=8), nn.Conv2d(8, 8, 1)), "same"),
    "stride 3": (lambda: ConvSame(4, 3), "same"),
    "same-lower": (lambda: nn.Sequential(LowerPool(), nn.Conv2d(8, 8, 1)), "same-lower"),
    "two readers": (TwoReaders, "same"),
    "stride 1": (Stride1, None),
    "only looks": (lambda: nn.Sequential(Looks(), nn.Conv2d(8, 8, 1)), None),
}


class Enlarges(nn.Module):
    """As timm's VGG: a convolution of maps of 9 pixels or more, to which others are pooled."""

    def __init__(self, both=True):
        super().__init__()
        self.conv, self.both = nn.Conv2d(8, 8, 5), both

    def forward(self, x):
        x = functional.max_pool2d(x, 3)
        height, width = x.shape[2:]
        if height < 9 or width < 9:
            y = functional.adaptive_avg_pool2d(x, (max(9, height), max(9, width)))
            return self.conv(y) if self.both else self.conv(y) + x.mean((2, 3), keepdim=True)
        return self.conv(x) if self.both else self.conv(x) + x.mean((2, 3), keepdim=True)


def test_small_maps_are_pooled_to_more_pixels(pixels, signed_norms, tmp_path):
    network = packable(Enlarges(), signed_norms)
    path = tmp_path / "x.rsq"
    pack(network, path)
    (pool,) = [s for s in open_packed(path).plan.steps if s.OP == "adaptive_avgpool"]
    assert (pool.size, pool.least) == ((None, None), (9, 9))
    session = runtime.load(path, threads=1, tune=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.spec.mean, network.spec.std))
    for size in ((33, 33), (24, 24), (21, 36), (26, 27)):
        images = pixels(1, *size)
        with torch.no_grad():
            expected = network((images / 255 - mean) / std).numpy()
        # As below: rounded weights of the image and of the classifier.
        np.testing.assert_allclose(
            session(images.numpy()), expected, rtol=0, atol=0.005 * np.abs(expected).max()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_computed_paddings_pack_as_torch_computes_them(kind, pixels, signed_norms, tmp_path):
    make, rule = KINDS[kind]
    network = packable(make(), signed_norms)
    path = tmp_path / "x.rsq"
    pack(network, path)
    plan = open_packed(path).plan
    rules = {getattr(s, "padding", None) for s in plan.steps} & {"same", "same-lower"}
    assert rules == ({rule} if rule else set())
    session = runtime.load(path, threads=1, tune=False)
    # At sizes of every remainder of the strides, trained or not. The image's and the classifier's
    # weights are rounded in the file, which moves logits by up to 0.2 %; the other rule moves
    # them by 0.7 % and more.
    for size in ((33, 33), (24, 24), (23, 36), (30, 17), (25, 26), (21, 28)):
        images = pixels(1, *size)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.spec.mean, network.spec.std))
        with torch.no_grad():
            expected = network((images / 255 - mean) / std).numpy()
        np.testing.assert_allclose(
            session(images.numpy()), expected, rtol=0, atol=0.005 * np.abs(expected).max()
        )


def test_every_code_behind_a_computed_padding_is_torchs(compare, pixels, signed_norms):
    middle = nn.Sequential(MaxPool2dSame(3, 2), nn.Conv2d(8, 8, 1), MaxPool2dSame(2, 2))
    network = packable(middle, signed_norms)
    for size in ((33, 33), (24, 31), (30, 25)):
        compared, _, _ = compare(network, pixels(2, *size))
        assert compared > 1000


class PadsEven(nn.Module):
    """To an even side: no rule of a kernel of 3."""

    def forward(self, x):
        return functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


class Branches(nn.Module):
    """Another network for large maps."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.a(x) if x.shape[2] < 30 else self.b(x)


class Grows(Branches):
    """One more layer for maps that are larger than any trained."""

    def forward(self, x):
        x = self.a(x)
        return functional.relu(x) if x.shape[2] > 40 else x


class Window(nn.Module):
    """A max-pooling of half the map."""

    def forward(self, x):
        return functional.max_pool2d(x, x.shape[2] // 2, 1)


class Values(nn.Module):
    """Decides by values, not sizes."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


@pytest.mark.parametrize(
    "middle,line",
    [
        (
            lambda: nn.Sequential(PadsEven(), nn.Conv2d(8, 8, 3, 2)),
            r"^pad in middle\.0 \(PadsEven\): pads the input of middle\.1\.input_quantizer by",
        ),
        (
            lambda: nn.Sequential(PadsEven(), nn.Conv2d(8, 8, 2, 2, padding=1)),
            r"^pad in middle\.0 \(PadsEven\): pads .* \"same\" \(TensorFlow's\); pad "
            r'like "same", with',
        ),
        (
            lambda: nn.Sequential(PadsEven(), nn.BatchNorm2d(8)),
            r"pads the input of middle\.1 by amounts that depend",
        ),
        (Branches, r"^middle\.[ab]\.input_quantizer: what the network computes there depends"),
        (Grows, r"what the network computes there depends on the size of its images, in more than"),
        (lambda: Enlarges(False), r"what the network computes there depends on the size"),
        (Window, r"^max_pool2d: what the network computes there depends on the size"),
        (
            Values,
            r"torch.fx cannot trace it \(.*, in line \d+ of test_sizes\.py\); make its",
        ),
    ],
)
def test_what_else_depends_on_the_size_is_refused_by_name(middle, line, signed_norms, tmp_path):
    network = packable(middle(), signed_norms)
    with pytest.raises(PackError, match=line):
        pack(network, tmp_path / "x.rsq")
    assert list(tmp_path.iterdir()) == []
