"""Integer networks that give a class for each pixel: the codes of PyTorch, on every back end."""

import numpy as np
import pytest
import torch
from back_ends import assert_equal_everywhere, pixels_of
from integer_network import vary
from shallow import RESNET10
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.data.transforms import normalise
from rsquant.errors import PackedFileError, PackError
from rsquant.packed.file import open_packed
from rsquant.packed.format import read_packed, write_packed
from rsquant.packed.ops.conv import ConvSpec
from rsquant.packed.ops.maxpool import MaxPoolSpec
from rsquant.packed.ops.resize import ResizeSpec
from rsquant.packed.plan import BYTE_MAPS
from rsquant.packing import agreement
from rsquant.packing.grid import on_grid
from rsquant.packing.write import lowered_network, pack
from rsquant.runtime import load

SIZES = (64, 48)


def light():
    return rsquant.create(
        f"refinenet_lw_bn_{RESNET10}", 2, 2, SIZES, 5, width=2, task="segmentation", integer=True
    )


def full():
    return rsquant.create(
        f"refinenet_bn_{RESNET10}", 2, 3, SIZES, 5, width=2, task="segmentation", integer=True
    )


class Own(nn.Module):
    """Resized by factors and to a number of pixels, in every mode; a head of strides and groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 8, 1)
        self.up = nn.Upsample(scale_factor=(1.5, 2.0), mode="nearest")
        self.blended = nn.Upsample((9, 11), mode="bilinear")
        self.head = nn.Conv2d(8, 6, 3, 2, 1, groups=2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = self.up(self.two(self.one(x)))
        y = functional.interpolate(y, scale_factor=0.75, mode="nearest-exact")
        x = functional.interpolate(x, y.shape[2:], mode="bilinear", align_corners=True)
        y = functional.interpolate(x + y, scale_factor=1.3, mode="bilinear")
        return self.head(self.blended(functional.max_pool2d(y, 2)))


def own():
    return rsquant.convert(Own(), 2, 4, SIZES, task="segmentation", integer=True)


class OfSums(nn.Module):
    """The head reads a sum, and has no bias; levels of poolings with one reader."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.mid = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(x + self.mid(functional.max_pool2d(x, 3, 1, 1)))


def of_sums():
    return rsquant.convert(OfSums(), 1, 2, SIZES, task="segmentation", integer=True)


class Odd(nn.Module):
    """Sizes as a number and as a list, of one pixel; a dilated head of more than a vector."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.mid = nn.Conv2d(8, 20, 3, 1, "same")
        self.head = nn.Conv2d(20, 19, 3, padding=2, dilation=2)

    def forward(self, x):
        x = self.mid(functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 3, 1, 1))
        one = functional.interpolate(x, 1, mode="bilinear")
        one = functional.interpolate(one, [10, 7], mode="bilinear", align_corners=True)
        x = functional.interpolate(x, [10, 7], mode="bilinear")
        return self.head(x + one)


def odd():
    return rsquant.convert(Odd(), 2, 2, SIZES, task="segmentation", integer=True)


NETWORKS = {"light": light, "full": full, "own": own, "of_sums": of_sums, "odd": odd}


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request, tmp_path_factory):
    """(network, path of its file)."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    vary(network)
    path = tmp_path_factory.mktemp("maps") / "net.rsq"
    pack(network.eval(), path)
    return network, path


@pytest.mark.parametrize("size", [(64, 64), (48, 48), (57, 70)])
def test_logits_are_those_of_the_evaluation(packed, size):
    network, path = packed
    pixels = torch.from_numpy(pixels_of(2, *size))
    with torch.no_grad():
        logits = network(normalise(pixels, network.spec.mean, network.spec.std))
    assert logits.dim() == 4 and logits.std() > 0
    found = load(path, 1, tune=False)(pixels.numpy())
    assert torch.equal(torch.from_numpy(found), logits)


def test_every_code_of_every_layer_is_that_of_the_evaluation(packed):
    network, path = packed
    made = on_grid(network, "coarse").network
    _, lowered = lowered_network(made, path)
    compared = agreement.check_codes(made, load(path, 1, tune=False), lowered.values)
    packed_values = open_packed(path).values
    pooled = [step for step in open_packed(path).plan.steps if isinstance(step, MaxPoolSpec)]
    moved = sum(packed_values[step.output].kind == "codes" for step in pooled)
    # Levels in front of a pooling are no layer's result: those behind it are compared.
    assert len(lowered.values) == len(packed_values) - 1 - moved
    assert compared > 1000


def test_every_back_end_computes_the_same(packed, gpu):
    _, path = packed
    assert_equal_everywhere(path, [(64, 64), (40, 50)], gpu)


def test_files_have_version_8_and_older_ones_are_refused(packed, tmp_path):
    _, path = packed
    assert open_packed(path).plan.format_version == BYTE_MAPS == 8
    tensors, metadata = read_packed(path)
    write_packed(tmp_path / "old.rsq", tensors, {**metadata, "version": 7})
    with pytest.raises(PackedFileError, match="from version 8 of the format on") as caught:
        open_packed(tmp_path / "old.rsq")
    assert "\n" not in str(caught.value)


def test_a_fusion_is_one_step_and_levels_are_written_before_poolings(tmp_path):
    pack(light().eval(), tmp_path / "x.rsq")
    packed = open_packed(tmp_path / "x.rsq")
    steps = packed.plan.steps
    resized = {step.output for step in steps if isinstance(step, ResizeSpec)}
    convs = [step for step in steps if isinstance(step, ConvSpec)]
    assert len(resized) == 3 and resized <= {step.epilogue.add for step in convs}
    pooled = {step.output for step in steps if isinstance(step, MaxPoolSpec)}
    read = {step.input for step in convs} & pooled
    assert len(read) == 16 and all(packed.values[value].kind == "codes" for value in read)


def changed(path, folder, change, tensor=None):
    tensors, metadata = read_packed(path)
    tensors = dict(tensors)
    for step in metadata["steps"]:
        change(step)
    if tensor is not None:
        tensor(tensors)
    write_packed(folder / "bad.rsq", tensors, metadata)
    return folder / "bad.rsq"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "own.rsq"
    pack(own().eval(), path)
    return path


def test_sizes_that_are_computed_are_named(tmp_path):
    class Computed(Own):
        def forward(self, x):
            y = torch.relu(self.norm(self.stem(x)))
            return self.head(functional.interpolate(y, (x.shape[3], x.shape[2])))

    network = rsquant.convert(Computed(), 2, 2, SIZES, task="segmentation", integer=True)
    message = r"resizes to \(1 \* image.shape\[3\], 1 \* image.shape\[2\]\)"
    with pytest.raises(PackError, match=message):
        pack(network.eval(), tmp_path / "x.rsq")


def test_levels_are_not_resized(file, tmp_path):
    codes = next(v for v, spec in enumerate(open_packed(file).values) if spec.kind == "codes")

    def change(step):
        if step["op"] == "resize" and step["input"] > codes:
            step["input"] = codes

    with pytest.raises(PackedFileError, match=f"needs a float value or bytes, {codes} is codes"):
        open_packed(changed(file, tmp_path, change))


def test_weights_beyond_64_are_refused(file, tmp_path):
    def tensor(tensors):
        tensors["head.weight"] = np.full_like(tensors["head.weight"], 65)

    with pytest.raises(PackedFileError, match="reads bytes with levels up to 65, beyond 64"):
        open_packed(changed(file, tmp_path, lambda step: None, tensor))
