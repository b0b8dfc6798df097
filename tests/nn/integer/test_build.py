"""Which networks become integer networks, and what is said of the others."""

import copy

import pytest
import torch
import torchvision
from shallow import RESNET10, RESNET14
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import CheckpointError, ConfigError, ModelError, RsquantError
from rsquant.evaluate.complexity import madds
from rsquant.nn.freeze import freeze
from rsquant.nn.integer.byte_scale import Bytes, ByteScale
from rsquant.nn.integer.endings import IntegerHead
from rsquant.nn.integer.layers import IntegerConv, IntegerMap, IntegerSum
from rsquant.nn.integer.resize import IntegerResize
from rsquant.quantizers.lq import LQActivationQuantizer
from rsquant.report.layers import layer_rows

SIZES = (64, 32)


class Net(nn.Module):
    """A convolution of the image, a low-bit one, and a classifier, with something between."""

    def __init__(self, between=None):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.between = between or nn.Identity()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = self.middle(self.act(self.norm2(self.second(x))), x)
        return self.fc(self.between(x).mean((2, 3)))

    def middle(self, x, before):
        return x


def integer(network, **more):
    return rsquant.convert(network, 2, 2, SIZES, integer=True, **more)


def layers(model, kind):
    return [m for m in model.modules() if isinstance(m, kind)]


def test_what_is_added_shares_a_scale_and_nothing_else_does():
    model = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, integer=True)
    scales = layers(model, ByteScale)
    # Of each stage's sums, of what its classifier's average reads, and of the average.
    assert [len(scale.tops) for scale in scales] == [3, 3, 3, 3, 1, 1]
    for total in layers(model, IntegerSum):
        assert len(total.out.scale.tops) == 3


def test_chains_end_in_levels_where_a_quantizer_alone_reads_them():
    model = rsquant.create(RESNET14, 2, 2, SIZES, 5, width=4, integer=True)
    assert not isinstance(model.body.get_submodule("layer1.0.conv1").out, Bytes)
    assert isinstance(model.body.get_submodule("layer1.0.conv3").out, Bytes)
    # Its first shortcut reads what nothing has quantized.
    assert isinstance(model.body.get_submodule("layer1.0.shortcut.0").source, Bytes)


def test_what_is_done_in_place_reaches_every_reader():
    class InPlace(Net):
        def middle(self, x, before):
            y = functional.relu(x, inplace=True)
            y += before
            return x

    model = integer(InPlace())
    # `x` is the sum: `y` is another name of it.
    assert len(layers(model, IntegerSum)) == 1


def test_sizes_are_not_computed_with():
    class Flattened(Net):
        def forward(self, x):
            x = self.act(self.norm(self.first(x)))
            x = self.act(self.norm2(self.second(x)))
            x = functional.adaptive_avg_pool2d(x, (1, 1))
            return self.fc(x.view(x.size(0), -1))

    model = integer(Flattened()).eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_dropout_is_in_training_alone():
    images = torch.randn(2, 3, 64, 64)

    def two_steps(network):
        """Of two copies, which differ in the random numbers they draw."""
        model = integer(network).train()
        copies = (model, copy.deepcopy(model))
        return [one.forward_all([images, images[..., :32, :32]])[0] for one in copies]

    assert torch.equal(*two_steps(Net()))
    assert not torch.equal(*two_steps(Net(nn.Dropout(0.5))))
    model = integer(Net(nn.Dropout(0.5))).eval()
    assert torch.equal(model(images), model(images))


class Gate(Net):
    def middle(self, x, before):
        return x * before.sigmoid()


class Constant(Net):
    def middle(self, x, before):
        return x + 1


class Concatenated(Net):
    def middle(self, x, before):
        return torch.cat([x[:, :4], before[:, 4:]], 1)


class Twice(Net):
    def middle(self, x, before):
        return self.act(self.norm2(self.second(x)))


class Decides(Net):
    def middle(self, x, before):
        return x if x.sum() > 0 else before


class Functional(Net):
    def middle(self, x, before):
        return functional.dropout(x, 0.5, self.training)


class NormFirst(Net):
    def __init__(self):
        super().__init__()
        self.norm0 = nn.BatchNorm2d(3)

    def forward(self, x):
        return super().forward(self.norm0(x))


class PooledImage(Net):
    def forward(self, x):
        return super().forward(functional.max_pool2d(x, 2))


class Scaled(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

    def middle(self, x, before):
        return x * self.scale


class Deep(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))


class ConvHead(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        return self.fc(self.act(self.norm2(self.second(x)))).mean((2, 3))


class Reflects(Net):
    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(8, 8, 3, 1, 1, bias=False, padding_mode="reflect")


class Indices(Net):
    def middle(self, x, before):
        return functional.max_pool2d(x, 2, return_indices=True)[0]


class Antialiased(Net):
    def middle(self, x, before):
        return functional.interpolate(x, (8, 8), mode="bilinear", antialias=True)


class ByAFactor(Net):
    def middle(self, x, before):
        return functional.interpolate(x, scale_factor=x.shape[2] / 8)


class LevelsResized(Net):
    """A quantizer whose levels are enlarged: that of the layer behind."""

    def __init__(self):
        super().__init__(
            nn.Sequential(LQActivationQuantizer(2, grid=15), nn.Upsample(scale_factor=2))
        )


def wide():
    network = Net()
    network.first, network.norm = nn.Conv2d(3, 9000, 3, 8, 1), nn.BatchNorm2d(9000)
    network.second = nn.Conv2d(9000, 8, 3, 1, 1, bias=False)
    return network


def hooked():
    network = Net()
    network.norm.register_forward_hook(lambda module, args, result: result * 2)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Gate, r"integer: sigmoid has no integer form; replace it, or leave out"),
        (Constant, "integer: add adds something else than two values"),
        (Concatenated, "integer: getitem has no integer form"),
        (Twice, "integer: second runs more than once"),
        (
            Decides,
            r"integer: Decides: torch.fx cannot trace it \(.* in line \d+ of test_b",
        ),
        (Functional, "integer: dropout does something else in training than in evaluation"),
        (NormFirst, "integer: first has float32 weights and does not read the image itself"),
        (PooledImage, "integer: first has float32 weights and does not read the image itself"),
        (Scaled, "integer: scale is a parameter that the network computes with by itself"),
        (Deep, "integer: fc.0 is a low-bit Linear layer; only the last"),
        (ConvHead, "integer: ConvHead: ends in mean, behind fc, and must end in a Linear layer"),
        (Reflects, "integer: second pads by 'reflect', which has no integer form"),
        (Indices, "integer: max_pool2d_with_indices has no integer form"),
        (lambda: Net(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "between averages windows"),
        (lambda: Net(nn.AdaptiveAvgPool2d(3)), "between averages to 3 pixels"),
        (lambda: Net(nn.Upsample(scale_factor=2, mode="bicubic")), "resizes in mode 'bicubic'"),
        (Antialiased, "integer: interpolate resizes with antialias, which has no integer form"),
        (ByAFactor, "integer: interpolate resizes by a computed factor, which has no integer"),
        (LevelsResized, r"between.1 resizes what a quantizer gives, and levels have none"),
        (lambda: Net(nn.Hardswish()), "between is a Hardswish, which has no integer form"),
        (wide, r"second sums 81,000 products of up to 14 x 15, more than float32 adds exactly"),
        (hooked, "norm: has a forward hook that changes its values, and an integer network has"),
    ],
)
def test_what_has_no_integer_form_is_named(network, message):
    with pytest.raises(ModelError, match=message) as caught:
        integer(network())
    assert "\n" not in str(caught.value)


def refinenet(**more):
    torch.manual_seed(0)
    options = {"width": 2, "task": "segmentation", "integer": True} | more
    return rsquant.create(f"refinenet_lw_bn_{RESNET10}", 2, 2, (64, 32), 3, **options)


class Map(Net):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x):
        return self.fc(self.act(self.norm(self.first(x))))


def test_networks_that_give_maps_end_in_a_head_of_8_bits():
    for arch in ("refinenet_lw_bn_resnet18", "refinenet_resnet18"):
        model = rsquant.create(
            arch, 2, 2, (64, 32), 3, width=2, task="segmentation", integer=True
        ).eval()
        assert len(layers(model, IntegerResize)) == 3
        (head,) = layers(model, IntegerHead)
        assert head is model.body.get_submodule("head")
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3, 16, 16)
    # Sums of the fusion and what is resized for it share a scale.
    (first, *_) = layers(model, IntegerResize)
    assert first.source.scale is model.body.get_submodule("levels.1.sum").out.scale


@pytest.mark.parametrize(
    ("channels", "more", "message"),
    [
        (4, {}, "integer: fc reads 4 channels, which kernels would take for the image's"),
        (8, {"keep": ("first",)}, "fc gives the logits and has low-bit weights"),
    ],
)
def test_heads_that_cannot_be_are_refused(channels, more, message):
    network = Map()
    network.first, network.norm = nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels)
    network.fc = nn.Conv2d(channels, 5, 3, padding=1)
    with pytest.raises(ModelError, match=message):
        rsquant.convert(network, 2, 2, (32,), task="segmentation", integer=True, **more)


def test_low_bit_layers_at_the_ends_are_refused():
    with pytest.raises(ModelError, match="first_input reads the image, which only a convolution"):
        integer(Net(), keep=("fc",))
    with pytest.raises(ModelError, match="fc is a low-bit Linear layer; only the last"):
        integer(Net(), keep=("first",))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"wbits": 32}, "integer: needs weights and activations of 1 to 4 bits, got W32A2"),
        ({"abits": 32}, "integer: needs weights and activations of 1 to 4 bits, got W2A32"),
        ({"grid": "fine"}, "integer: computes on the coarse grid, got grid 'fine'"),
        ({"layer_bits": {"layer2.0.conv2": "32/2"}}, "layer2.0.conv2 has float32 weights"),
    ],
)
def test_what_cannot_be_integers_is_refused(more, message):
    given = {"wbits": 2, "abits": 2} | more
    with pytest.raises(RsquantError if "layer_bits" in more else ConfigError, match=message):
        rsquant.create(RESNET10, resolutions=SIZES, num_classes=5, width=4, integer=True, **given)


def test_an_image_convolution_of_low_bits_is_refused():
    with pytest.raises(ModelError, match="integer: first reads the image and has low-bit"):
        rsquant.convert(
            Net(), 2, 2, SIZES, keep=["fc"], layer_bits={"first": (2, 32)}, integer=True
        )


class Windows(Net):
    def middle(self, x, before):
        return functional.avg_pool2d(x, x.shape[2:])


def test_windows_of_a_computed_size_are_refused():
    with pytest.raises(ModelError, match="averages windows of a computed size"):
        integer(Windows())


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_networks_of_torchvision_that_cannot_be_are_told_why(arch):
    with pytest.raises(ModelError, match=r"^integer: .* has no integer form"):
        integer(torchvision.models.get_model(arch, num_classes=5))


@pytest.mark.parametrize("arch", ["mnasnet0_5"])
def test_more_networks_of_torchvision_are_integer_networks(arch):
    model = integer(torchvision.models.get_model(arch, num_classes=5)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_layers_of_other_bits_and_quantizers():
    more = {"layer_bits": {"layer4.*": "4/4"}, "layer_quantizer": {"layer2.*": "lsq"}}
    model = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, integer=True, **more)
    rows = {row.name: row for row in layer_rows(model)}
    assert (rows["conv1"].wbits, rows["conv1"].abits) == (8, 8)
    assert (rows["fc"].wbits, rows["fc"].abits) == (8, 8)
    assert (rows["layer4.0.conv1"].wbits, rows["layer4.0.conv1"].abits) == (4, 4)
    assert rows["layer2.0.conv2"].quantizer == "lsq"
    assert rows["layer1.0.conv1"].input_quantizer == "layer1.0.act1.out"


def test_as_many_multiply_adds_as_without():
    plain = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4)
    model = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, integer=True)
    assert madds(model, 64) == madds(plain, 64)


def test_another_classifier_is_an_integer_one_too():
    model = integer(Net())
    model.reset_classifier(["a", "b", "c"])
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    assert model.spec.num_classes == 3


def test_a_checkpoint_says_so_and_gives_the_same_network(tmp_path):
    path = tmp_path / "net.safetensors"
    model = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, integer=True).train()
    images = [torch.randn(2, 3, size, size) for size in SIZES]
    model.forward_all(images)
    rsquant.save(model, path)
    loaded = rsquant.load(path)
    assert loaded.spec.integer
    assert loaded.spec.grid == "coarse"
    assert "integer" in repr(loaded)
    for size in (64, 48, 32):
        with torch.no_grad(), model.at(size), loaded.at(size):
            assert torch.equal(model.eval()(images[0]), loaded(images[0]))
    other = rsquant.create(RESNET10, 2, 2, SIZES, 5, width=4, grid="coarse")
    with pytest.raises(CheckpointError, match="has integer True, the network given has False"):
        rsquant.load(path, into=other)


def test_a_converted_network_is_read_into_one_converted_alike(tmp_path):
    path = tmp_path / "net.safetensors"
    model = integer(Net()).eval()
    rsquant.save(model, path)
    loaded = rsquant.load(path, into=integer(Net()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), loaded(images))


def test_a_copy_refers_to_its_own_parts():
    model = integer(Net()).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        other = copy.deepcopy(model)
        assert torch.equal(other(images), expected)
        for scale in layers(other, ByteScale):
            scale.step *= 2
        assert not torch.equal(other(images), expected)
        assert torch.equal(model(images), expected)
    parts = set(other.modules())
    assert all(m.source in parts for m in layers(other, (IntegerConv, IntegerMap)))


def test_paths_of_one_size_are_dropped_with_their_scales():
    model = rsquant.create(RESNET10, 2, 2, (64, 64), 5, width=4, integer=True).eval()
    images = torch.randn(1, 3, 64, 64)
    alone = model.one_path_per_size()
    assert all(len(scale.step) == 1 for scale in layers(alone, ByteScale))
    with torch.no_grad():
        assert torch.equal(alone(images), model(images))


def test_there_is_no_float_form_to_export(tmp_path):
    model = integer(Net())
    with pytest.raises(RsquantError, match="an integer network has the form int8 only"):
        rsquant.export_onnx(model, tmp_path / "net.onnx", 64, form="float")
    with pytest.raises(RsquantError, match="is an integer network"):
        freeze(model, 64)
    assert not list(tmp_path.iterdir())


def test_modes_of_modules_are_kept():
    network = Net().train()
    network.norm2.eval()
    model = integer(network)
    conv = next(m for m in layers(model, IntegerConv))
    assert model.training
    assert conv.training
    assert not conv.norm.training
    assert not layers(model, IntegerMap)


def test_a_network_of_maps_gets_another_head_and_is_described(tmp_path):
    model = refinenet()
    rows = {row.name: row for row in layer_rows(model)}
    assert (rows["head"].wbits, rows["head"].abits) == (8, 8)
    assert rows["head"].weight_bytes == model.body.get_submodule("head").layer.weight.numel()
    assert madds(model, 64) == madds(refinenet(integer=False), 64)
    model.reset_classifier(["sky", "road", "tree", "car"])
    images = torch.randn(1, 3, 64, 64)
    logits = model.eval()(images)
    assert logits.shape == (1, 4, 16, 16)
    rsquant.save(model, tmp_path / "x.safetensors")
    assert torch.equal(rsquant.load(tmp_path / "x.safetensors").eval()(images), logits)
