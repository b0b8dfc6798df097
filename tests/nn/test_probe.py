"""Which layers read the image and which are heads, by what values flow through the network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsquant
from rsquant.errors import ModelError
from rsquant.nn.probe import probe, survey


class Net(nn.Module):
    """Stem, body, classifier; what a test changes is in a subclass."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.body, self.fc = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 5)
        self.add()

    def add(self):
        pass

    def features(self, x):
        return self.body(self.bn(self.stem(x)).relu()).relu()

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class ParallelStems(Net):
    def add(self):
        self.stem1 = nn.Conv2d(3, 8, 1, 2)

    def features(self, x):
        return self.body(self.bn(self.stem(x) + self.stem1(x)).relu())


class ImageAgain(Net):
    """Preprocessing, slices and a buffer written in place; the image is read again, smaller."""

    def add(self):
        self.scale, self.pre = nn.Parameter(torch.ones(1, 3, 1, 1)), nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 8, 3, 1, 1)
        self.register_buffer("blur", torch.ones(3, 1, 3, 3) / 9)

    def features(self, x):
        x = self.pre((x - 0.5) * self.scale)
        flipped = torch.zeros_like(x)
        flipped[:, 1:] = x[:, :-1]
        y = self.bn(self.stem(F.pad(x, (2, 2, 2, 2)))).relu()
        blurred = F.conv2d(flipped, self.blur, padding=1, groups=3)
        return self.body(y + self.again(F.interpolate(blurred[:, :, ::2], y.shape[-2:])))


class Preallocated(Net):
    """A map made with the image's type and device does not come from the image."""

    def features(self, x):
        y = self.bn(self.stem(x))
        out = x.new_zeros(y.shape)
        out[:, :4] = y[:, :4]
        return self.body(out)


class TwoHeads(Net):
    def add(self):
        self.early = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x):
        y = self.bn(self.stem(x)).relu()
        z = F.dropout(self.body(y).mean((2, 3)), training=self.training)
        return (self.early(y.mean((2, 3))) + self.fc(z)) / 2


class ConvHead(Net):
    def add(self):
        self.head = nn.Sequential(nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        del self.fc

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.head(self.features(x)), 1).flatten(1)


class Joined(Net):
    """Heads for some of the classes each."""

    def add(self):
        self.more = nn.Linear(8, 2)

    def forward(self, x):
        y = self.features(x).mean((2, 3))
        return torch.cat([self.fc(y), self.more(input=y)], 1)


class Deciding(Net):
    def features(self, x):
        y = self.bn(self.stem(x))
        for _ in range(2 if float(y.sum()) > -1e9 else 1):
            y = self.body(y).relu_()
        return y


class ThroughNumpy(Net):
    """Values that leave torch have no origin; the order in which layers run decides."""

    def forward(self, x):
        x = torch.from_numpy(x.numpy().copy())
        return torch.from_numpy(super().forward(x).numpy().copy())


@pytest.mark.parametrize(
    "network,readers,heads",
    [
        (Net, {"stem"}, {"fc"}),
        (ParallelStems, {"stem", "stem1"}, {"fc"}),
        (ImageAgain, {"stem", "again"}, {"fc"}),
        (Preallocated, {"stem"}, {"fc"}),
        (TwoHeads, {"stem"}, {"fc", "early.2"}),
        (ConvHead, {"stem"}, {"head.0"}),
        (Joined, {"stem"}, {"fc", "more"}),
        (Deciding, {"stem"}, {"fc"}),
        (ThroughNumpy, {"stem"}, {"fc"}),
    ],
)
def test_layers_that_read_the_image_and_heads_are_found(network, readers, heads):
    torch.manual_seed(0)
    seen = survey(network(), (32, 24))
    assert seen.readers == readers
    assert seen.heads == heads
    assert "body" in seen.order


def test_a_probe_keeps_modes_and_random_numbers():
    network = Net()
    network.body.eval()
    network.bn.weight.requires_grad_(False)
    before = torch.get_rng_state()
    survey(network, (32, 24))
    assert network.training and network.bn.training and not network.body.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_stride_is_that_of_the_smallest_map():
    assert probe(Net(), 64).stride == 2


class Flat(Net):
    """Its classifier is made for the maps of one size."""

    def add(self):
        self.fc = nn.Linear(8 * 16 * 16, 5)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


class Branches(Net):
    """Two ways whose maps agree where the size is a multiple of 8."""

    def add(self):
        self.down = nn.Conv2d(8, 8, 3, 4, 1)

    def features(self, x):
        y = self.bn(self.stem(x)).relu()
        return self.body(y + F.interpolate(self.down(y), scale_factor=4))


class Deep(Net):
    """Its last pooling needs three pixels: 11 of the image."""

    def features(self, x):
        return F.max_pool2d(F.max_pool2d(super().features(x), 2), 3)


def test_a_network_of_one_input_size_converts_for_it():
    model = rsquant.convert(Flat(), 2, 2, (32,)).train()
    assert model.forward_all([torch.randn(2, 3, 32, 32)])[0].shape == (2, 5)
    assert model.stride == 2


@pytest.mark.parametrize(
    "network,sizes,message",
    [
        (
            Flat,
            (48, 32, 24),
            r"^Flat: resolutions 48 and 24 do not run: fc \(Linear\) takes 2048 "
            r"values and is given 4608; of common sizes it runs at 32 only; use "
            r"resolutions=\(32,\)$",
        ),
        (
            Flat,
            (48,),
            r"^Flat: does not run on a 256 x 256 image, nor at 48: fc \(Linear\) takes .* "
            r"use resolutions=\(32,\)$",
        ),
        (
            Branches,
            (32, 28, 24),
            r"^Branches: resolution 28 does not run: maps of different sizes meet "
            r"in its own forward \(Branches\); use multiples of 8: 24, 32$",
        ),
        (Branches, (30, 28), "^Branches: resolutions 30 and 28 do not run: .* of 8: 24, 32$"),
        (Deep, (64, 8), r"^Deep: resolution 8 does not run: a map of .*; use 11 or more$"),
    ],
)
def test_sizes_that_do_not_run_are_named_with_those_that_do(network, sizes, message):
    with pytest.raises(ModelError, match=message):
        rsquant.convert(network(), 2, 2, sizes)


def test_a_network_for_other_images_is_refused_with_the_reason():
    network = Net()
    network.stem = nn.Conv2d(1, 8, 3)
    with pytest.raises(
        ModelError,
        match=r"stem \(Conv2d\) takes 1 channels and is given 3; it "
        r"runs at none of .*must take \(N, 3, H, W\) float32 images",
    ):
        rsquant.convert(network, 2, 2, (32,))


def test_multiples_of_the_stride_train():
    model = rsquant.convert(Branches(), 2, 2, (32, 24)).train()
    logits = model.forward_all([torch.randn(2, 3, 32, 32), torch.randn(2, 3, 24, 24)])
    assert all(torch.isfinite(z).all() for z in logits)
