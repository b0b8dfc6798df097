"""Converting networks that rsquant did not build."""

import copy
import re

import narrow
import pytest
import torch
import torchvision
from torch import nn

import rsquant
from rsquant.errors import ConfigError, ModelError
from rsquant.nn import QuantConv2d, QuantLinear, SwitchableBatchNorm2d

SIZES = (64, 48, 32)


def quantized(model):
    kinds = (QuantConv2d, QuantLinear)
    return {n.removeprefix("body.") for n, m in model.named_modules() if isinstance(m, kinds)}


def test_at_32_bits_a_conversion_computes_what_the_network_did():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5).eval()
    converted = rsquant.convert(network, 32, 32, SIZES).eval()
    for size in (64, 56, 32):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(converted(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", marks=pytest.mark.slow),
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
    ],  # 120 million weights
)
def test_torchvision_networks_convert_train_and_switch(name):
    torch.manual_seed(0)
    sizes = (64, 32)
    model = rsquant.create(f"torchvision:{name}", 2, 2, sizes, num_classes=3)
    logits = model.train().forward_all([torch.randn(2, 3, s, s) for s in sizes])
    sum(z.square().mean() for z in logits).backward()
    for z in logits:
        assert z.shape == (2, 3)
        assert torch.isfinite(z).all()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 40, 40)).shape == (1, 3)


def test_the_first_and_last_layer_that_run_stay_in_float():
    network = narrow.mobilenet_v2(3)
    total = {n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert quantized(rsquant.convert(network, 2, 2, SIZES)) == total - {
        "features.0.0",
        "classifier.1",
    }
    assert quantized(rsquant.convert(network, 2, 2, SIZES, keep=())) == total
    kept = rsquant.convert(network, 2, 2, SIZES, keep=["features.1.conv.0.0"])
    assert quantized(kept) == total - {"features.1.conv.0.0"}


def test_the_network_given_is_not_changed():
    network = narrow.NETWORKS["shufflenet_v2"]()
    before = copy.deepcopy(network.state_dict())
    rsquant.convert(network, 2, 2, SIZES)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert any(type(m) is nn.BatchNorm2d for m in network.modules())


def test_grouped_convolutions_have_a_basis_per_output_channel():
    model = rsquant.convert(narrow.mobilenet_v2(3), 2, 32, SIZES)
    depthwise = model.body.features[1].conv[0][0]
    assert depthwise.groups == 8
    assert depthwise.weight_quantizer.basis.shape == (8, 2)
    with torch.no_grad():
        weight = depthwise.eval().quantized_weight()
    assert all(len(w.unique()) <= 4 for w in weight)


def test_layers_with_negative_inputs_get_levels_on_both_sides():
    model = rsquant.convert(narrow.mobilenet_v2(3), 2, 2, SIZES)
    after_bottleneck = model.body.features[2].conv[0][0].input_quantizer
    after_relu = model.body.features[2].conv[1][0].input_quantizer
    assert after_bottleneck.levels()[0] < 0
    assert after_relu.levels()[0] == 0


def test_each_resolution_starts_from_the_same_batchnorm():
    network = narrow.NETWORKS["shufflenet_v2"]()
    norm = network.conv1[1]
    nn.init.uniform_(norm.weight)
    norm.running_mean.uniform_()
    converted = rsquant.convert(network, 2, 2, SIZES).body.conv1[1]
    assert isinstance(converted, SwitchableBatchNorm2d)
    for row in range(3):
        assert torch.equal(converted.weight[row], norm.weight)
        assert torch.equal(converted.running_mean[row], norm.running_mean)


def test_a_network_without_batchnorm_is_refused():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(ModelError, match=r"Sequential: has no BatchNorm2d.*vgg16_bn instead of vg"):
        rsquant.convert(network, 2, 2, SIZES)


def test_a_resolution_below_the_stride_is_refused():
    with pytest.raises(
        ModelError, match="resolution 16 is smaller than the network's stride of 32"
    ):
        rsquant.convert(torchvision.models.resnet18(), 2, 2, (64, 16))


def test_a_network_that_does_not_run_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(ModelError, match="Sequential: does not run on a 256 x 256 image"):
        rsquant.convert(network, 2, 2, SIZES)


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).tanh()


def test_convolutions_with_more_to_them_are_refused_unless_kept():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        OwnConv(4, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    with pytest.raises(ModelError, match=r"2: is a OwnConv.*or name it in keep"):
        rsquant.convert(network, 2, 2, SIZES)
    rsquant.convert(network, 2, 2, SIZES, keep=["2"])


def test_a_layer_held_under_two_names_stays_one_layer():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    norm = nn.BatchNorm2d(4)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        norm,
        shared,
        norm,
        shared,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    body = rsquant.convert(network, 2, 2, SIZES).body
    assert isinstance(body[2], QuantConv2d)
    assert body[2] is body[4]
    assert isinstance(body[1], SwitchableBatchNorm2d)
    assert body[1] is body[3]


def test_narrow_strided_pointwise_convolutions_train_without_a_crash():
    """torch 2.15 corrupts memory in the plain form; a failure here ends the process."""
    torch.manual_seed(0)
    model = rsquant.create("resnet18", 32, 32, (48,), num_classes=3, width=4)
    model.to(memory_format=torch.channels_last)
    for _ in range(3):
        x = torch.randn(4, 3, 48, 48).contiguous(memory_format=torch.channels_last)
        model(x).square().sum().backward()
    reference = torchvision.models.resnet18(num_classes=3)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in reference.parameters()
    )


@pytest.mark.parametrize("sizes", [(16,), (40, 20), (4,)])
def test_torchvision_networks_refuse_sizes_below_their_stride(sizes):
    with pytest.raises(ModelError, match="smaller than the network's stride of 32"):
        rsquant.create("torchvision:resnet18", 2, 2, sizes)


def test_width_and_stem_are_not_for_torchvision_networks():
    for wrong in ({"width": 16}, {"stem": "small"}):
        with pytest.raises(ConfigError, match="leave out stem, block and width"):
            rsquant.create("torchvision:resnet18", 2, 2, (64,), **wrong)


class Contained(nn.Module):
    """Layers in containers, one of which has two names."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = block
        self.alias = block
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(4, 2))

    def forward(self, x):
        return self.classifier(self.block(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "keep,quantized_layers",
    [
        (["block"], ("stem.0", "classifier.1")),
        (["stem", "classifier"], ("block.0", "block.2")),
        (["block.2", "stem"], ("block.0", "classifier.1")),
        (["alias"], ("stem.0", "classifier.1")),
        ("classifier", ("stem.0", "block.0", "block.2")),
        ([], ("stem.0", "block.0", "block.2", "classifier.1")),
    ],
)
def test_a_kept_name_covers_every_layer_below_it(keep, quantized_layers):
    report = rsquant.convert(Contained(), 2, 2, SIZES, keep=keep).conversion
    assert report.quantized == quantized_layers
    assert not set(report.kept) & set(quantized_layers)
    assert len(report.kept) + len(report.quantized) == 4


@pytest.mark.parametrize(
    "name,message",
    [
        ("nonsense", "Contained has no layer named 'nonsense'; the nearest is '"),
        ("clasifier", "no layer named 'clasifier'; the nearest is 'classifier'"),
        ("stem.2", "'stem.2' has no Conv2d or Linear to keep; the nearest is 'stem"),
        ("block.1", "'block.1' has no Conv2d or Linear to keep; the nearest is 'block"),
        ("", "to keep"),
    ],
)
def test_a_kept_name_that_covers_no_layer_is_refused(name, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        rsquant.convert(Contained(), 2, 2, SIZES, keep=["stem", name])


@pytest.mark.parametrize("wbits,abits", [(5, 2), (2, 0), (8, 8)])
def test_impossible_bits_are_refused(wbits, abits):
    with pytest.raises(ConfigError, match="must be 1, 2, 3, 4, or 32"):
        rsquant.convert(torchvision.models.resnet18(), wbits, abits, SIZES)
