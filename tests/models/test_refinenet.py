"""RefineNet: the published number of parameters, and what its formulas give."""

import pytest
import shallow
import torch
import toy_segmentation as toy
from torch import nn
from torch.nn import functional

import rsquant
from rsquant.errors import ConfigError
from rsquant.models.factory import build, weight_shapes
from rsquant.models.refinenet import RefineNet, Variant, names, variant

pytestmark = pytest.mark.usefixtures("one_start")

SIZES = (48, 32)


@pytest.fixture
def segmentation(monkeypatch):
    toy.registered(monkeypatch)
    return toy.NAME


def of(arch, classes=3, width=8):
    torch.manual_seed(0)
    return RefineNet(variant(arch), classes, width)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_names_say_backbone_and_decoder():
    assert variant("refinenet_lw_bn_resnet18") == Variant("resnet18", light=True, norm=True)
    assert variant("refinenet_resnet101") == Variant("resnet101", light=False, norm=False)
    for name in ("refinenet_vgg11", "refinenet_bn_lw_resnet18", "resnet18", "refinenet_resnet7"):
        assert variant(name) is None
    assert all(variant(name) is not None for name in names())


def test_parameters_are_the_published_ones():
    """RS-Nets, table 7, in millions: 118.31 with BatchNorms of three sizes.

    Its 118.20 of one size is that of ours, 118.10, and the 52,672 means and variances.
    """
    with torch.device("meta"):
        network = RefineNet(variant("refinenet_resnet101"), 40)
        light = RefineNet(variant("refinenet_lw_resnet101"), 40)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    channels = sum(m.num_features for m in norms)
    assert channels == 52_672
    assert parameters(network) == 118_096_232
    assert round((parameters(network) + 2 * 2 * channels) / 1e6, 2) == 118.31
    assert round((parameters(network) + 2 * channels) / 1e6, 2) == 118.20
    # Light-Weight RefineNet, table 2: 46 M.
    assert round(parameters(light) / 1e6) == 46


def formula(network, x):
    """RefineNet from its tensors, as the papers have it."""
    t = dict(network.state_dict())
    maps, y = [], network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        y = layer(y)
        maps.append(y)

    def conv(name, y):
        if f"{name}.0.weight" not in t:
            return y
        weight, bias = t[f"{name}.0.weight"], t.get(f"{name}.0.bias")
        y = functional.conv2d(y, weight, bias, padding=weight.shape[-1] // 2)
        if f"{name}.1.weight" in t:
            norm = [t[f"{name}.1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
            y = functional.batch_norm(y, *norm)
        return y

    def units(name, y, count):
        for i in range(count):
            if f"{name}.{i}.conv1.0.weight" in t:
                inside = conv(f"{name}.{i}.conv1", y.relu())
                y = y + conv(f"{name}.{i}.conv2", inside.relu())
        return y

    deeper = None
    for i, own in enumerate(reversed(maps)):
        name = f"levels.{i}"
        y = conv(f"{name}.fuse", units(f"{name}.before", conv(f"{name}.reduce", own), 2))
        if deeper is not None:
            size = y.shape[2:]
            y = y + functional.interpolate(deeper, size, mode="bilinear", align_corners=True)
        y = pooled = y.relu()
        for j in range(4):
            windows = functional.pad(pooled, (2,) * 4, value=-torch.inf).unfold(2, 5, 1)
            pooled = conv(f"{name}.pool.convs.{j}", windows.unfold(3, 5, 1).amax((4, 5)))
            y = y + pooled
        deeper = conv(f"{name}.out", units(f"{name}.after", y, 3))
    return functional.conv2d(deeper, t["head.weight"], t["head.bias"], padding=1)


@pytest.mark.parametrize("prefix", ["", "bn_", "lw_", "lw_bn_"])
@pytest.mark.parametrize("backbone", [shallow.RESNET10, shallow.RESNET14])
def test_the_network_computes_the_formulas(prefix, backbone):
    network = of(f"refinenet_{prefix}{backbone}").double().eval()
    x = torch.randn(1, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(logits, formula(network, x))
    assert logits.shape == (1, 3, 16, 12)
    if "bn_" not in prefix:
        # Residual branches that start small: the decoder does not blow up.
        assert logits.abs().max() < 100


@pytest.mark.parametrize("prefix", ["", "lw_bn_"])
@pytest.mark.parametrize("bits", [(32, 32), (2, 32), (2, 2)])
def test_it_is_created_trained_and_saved_as_others_are(prefix, bits, segmentation, tmp_path):
    arch = f"refinenet_{prefix}resnet10"
    torch.manual_seed(0)
    model = rsquant.create(arch, *bits, SIZES, 3, width=4, task=segmentation)
    assert model.spec.arch == arch and model.stride == 32
    images = [torch.randn(2, 3, size, size) for size in SIZES]
    if bits[1] < 32:
        rsquant.calibrate(model, images[0])
    outputs = model.train().forward_all(images)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, 12, 12), (2, 3, 8, 8)]
    labels = torch.randint(0, 3, (2, 48, 48))
    alpha = torch.ones(2, requires_grad=True)
    rsquant.mred(outputs, labels, alpha, task=toy.TASK).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()
    rsquant.save(model.eval(), tmp_path / "a.safetensors")
    read = rsquant.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        for x in images:
            assert torch.equal(read(x), model(x))


def test_the_head_and_what_reads_the_image_stay_in_float(segmentation):
    model = rsquant.create("refinenet_bn_resnet10", 2, 2, SIZES, 3, width=4, task=segmentation)
    assert set(model.conversion.kept) == {"conv1", "head"} and not model.conversion.left
    own = {n: tuple(p.shape) for n, p in model.body.named_parameters() if p.dim() > 1}
    shapes = weight_shapes(model.spec)
    assert {n: s for n, s in own.items() if len(s) == 4} == {
        n: s for n, s in shapes.items() if len(s) == 4
    }
    assert build(model.spec).spec == model.spec


def test_bad_requests_are_refused(segmentation):
    for message, more in (
        ("has its own stem and block; leave", {"stem": "small"}),
        ("has its own stem and block; leave", {"block": "preact"}),
        ("width: must be 1 to", {"width": 0}),
    ):
        with pytest.raises(ConfigError, match=message):
            rsquant.create("refinenet_resnet10", 2, 2, SIZES, 3, task=segmentation, **more)
    with pytest.raises(ConfigError, match="unknown network 'refinenet_resnet9'"):
        rsquant.create("refinenet_resnet9", 2, 2, SIZES, 3, task=segmentation)
