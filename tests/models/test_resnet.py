"""The built-in ResNets."""

import pytest
import torch
import torchvision
from torch import nn

import rsquant
from rsquant.errors import ConfigError, ModelError
from rsquant.models.stem import choose_stem
from rsquant.nn import QuantConv2d, SwitchableBatchNorm2d
from rsquant.quantizers.lq import LQActivationQuantizer

ARCHITECTURES = ["resnet18", "resnet34", "resnet50", "resnet101"]


@pytest.mark.parametrize(
    "arch", [*ARCHITECTURES[:3], pytest.param("resnet101", marks=pytest.mark.slow)]
)
def test_the_float_network_is_torchvisions(arch):
    reference = torchvision.models.get_model(arch, weights=None).eval()
    ours = rsquant.create(arch, 32, 32, (64,), stem="imagenet").eval()
    weights = {}
    for name, value in reference.state_dict().items():
        if "num_batches" not in name:
            own = ours.body.state_dict()[name]
            weights[name] = value.expand_as(own)
    ours.body.load_state_dict(weights)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arch,blocks,convs",
    [
        ("resnet18", 8, 19),
        ("resnet34", 16, 35),
        ("resnet50", 16, 52),
        ("resnet101", 33, 103),
    ],
)
def test_pre_activation_networks_quantize_every_convolution_but_the_first(arch, blocks, convs):
    model = rsquant.create(arch, 2, 2, (64, 32), width=4, num_classes=3, stem="imagenet")
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(isinstance(m, QuantConv2d) for m in layers) == convs == len(layers) - 1
    assert type(model.body.fc) is torch.nn.Linear
    # Per block one quantizer before each convolution but the first of a later stage's first block,
    # plus one at the end of each stage but the last.
    per_block = 2 if arch in ("resnet18", "resnet34") else 3
    quantizers = sum(isinstance(m, LQActivationQuantizer) for m in model.modules())
    assert quantizers == blocks * per_block - 3 + 3


# Worked out by hand from the published blocks: facts of LQ-Nets' and RS-Nets' code.
@pytest.mark.parametrize(
    "arch,wbits,abits,block,norms,channels",
    [
        ("resnet18", 2, 2, "auto", 28, 6720),
        ("resnet50", 2, 2, "auto", 69, 41664),
        ("resnet18", 3, 4, "preact", 28, 6720),
        ("resnet18", 2, 2, "preact-bare", 17, 3904),
        ("resnet50", 2, 2, "preact-bare", 49, 22720),
        ("resnet18", 2, 32, "auto", 20, 4800),
        ("resnet50", 2, 32, "post", 53, 26560),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_each_resolution_has_the_published_batchnorms(arch, wbits, abits, block, norms, channels):
    def parameters(sizes):
        model = rsquant.create(arch, wbits, abits, sizes, num_classes=2, block=block)
        found = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
        assert len(found) == norms
        assert sum(m.num_features for m in found) == channels
        return sum(p.numel() for p in model.parameters())

    assert parameters((96, 64, 32)) - parameters((96,)) == 2 * 2 * channels


def published(body, arch, x):
    """The published network's forward pass, written from its description, on a body's layers."""
    basic = arch in ("resnet18", "resnet34")
    layers = dict(body.named_modules())

    def bnrelu(name, x):
        return layers[name](x).relu()

    x = layers["maxpool"](bnrelu("bn1", layers["conv1"](x)))
    for stage in (1, 2, 3, 4):
        stage_layers = layers[f"layer{stage}"]
        for block in range(len(stage_layers) - 1):
            at = f"layer{stage}.{block}"
            if block > 0:
                shortcut, y = x, layers[f"{at}.act1.2"](bnrelu(f"{at}.act1.0", x))
            elif stage == 1:
                shortcut, y = x, layers[f"{at}.act1"](x)
            else:
                shortcut = y = x
            y = layers[f"{at}.conv1"](y)
            y = layers[f"{at}.conv2"](layers[f"{at}.act2.2"](bnrelu(f"{at}.act2.0", y)))
            if not basic:
                y = layers[f"{at}.conv3"](layers[f"{at}.act3.2"](bnrelu(f"{at}.act3.0", y)))
            y = layers[f"{at}.bn"](y)
            if y.shape[1] != x.shape[1]:
                shortcut = layers[f"{at}.shortcut.1"](layers[f"{at}.shortcut.0"](shortcut))
            x = y + shortcut
        end = f"layer{stage}.{len(stage_layers) - 1}"
        x = bnrelu(f"{end}.0", x)
        if stage < 4:
            x = layers[f"{end}.2"](x)
    return layers["fc"](x.mean((2, 3)))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_default_block_is_the_published_one(arch):
    torch.manual_seed(0)
    model = rsquant.create(arch, 2, 2, (64,), width=8, num_classes=5, stem="imagenet").eval()
    for module in model.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, 0.5, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), model.at(64):
        torch.testing.assert_close(model(x), published(model.body, arch, x), rtol=0, atol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_low_bit_weights_alone_start_each_block_as_its_shortcut(arch):
    last = "bn2" if arch in ("resnet18", "resnet34") else "bn3"
    for wbits, abits, zero in ((2, 32, True), (4, 32, True), (32, 32, False)):
        model = rsquant.create(arch, wbits, abits, (64, 32), width=4, num_classes=2)
        for name, module in model.named_modules():
            if isinstance(module, SwitchableBatchNorm2d):
                starts_at = 0.0 if zero and name.endswith(f".{last}") else 1.0
                assert (module.weight == starts_at).all(), name
    for block in ("preact", "preact-bare"):
        model = rsquant.create(arch, 2, 2, (64, 32), width=4, num_classes=2, block=block)
        assert all(
            (m.weight == 1).all() for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)
        )


def test_an_unknown_block_is_refused():
    with pytest.raises(ConfigError, match="block: must be one of auto, post"):
        rsquant.create("resnet18", 2, 2, (64,), block="preact2")


@pytest.mark.parametrize("block,abits", [("post", 2), ("preact", 32), ("preact-bare", 32)])
def test_every_block_runs_at_every_bits(block, abits, tmp_path):
    model = rsquant.create("resnet18", 2, abits, (64, 32), 3, width=4, block=block)
    assert model.spec.block == block
    assert all(torch.isfinite(y).all() for y in model.forward_all(_images(64, 32)))
    rsquant.save(model, tmp_path / "x.safetensors")
    assert rsquant.load(tmp_path / "x.safetensors").spec.block == block


def _images(*sizes):
    return [torch.randn(2, 3, size, size) for size in sizes]


def test_every_quantized_convolution_sees_at_most_four_levels():
    torch.manual_seed(0)
    model = rsquant.create("resnet50", 2, 2, (64, 32), width=4, num_classes=3, stem="imagenet")
    seen = {}

    def watch(name):
        def count(module, args):
            seen[name] = args[0].unique().numel()

        return count

    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d):
            module.register_forward_pre_hook(watch(name))
    model.eval()(torch.randn(2, 3, 64, 64))
    assert len(seen) == 52
    # The first shortcut reads what the first block quantizes for its branch alone.
    assert seen.pop("body.layer1.0.shortcut.0") > 4
    assert max(seen.values()) <= 4


def test_bits_1_to_4_and_float_sides_build_and_learn():
    for wbits, abits in [(1, 2), (2, 2), (3, 3), (4, 4), (2, 32), (32, 2), (1, 1)]:
        model = rsquant.create("resnet18", wbits, abits, (32,), width=4, num_classes=3, stem="tiny")
        loss = model(torch.randn(4, 3, 32, 32)).square().sum()
        loss.backward()
        assert torch.isfinite(model.body.conv1.weight.grad).all()
        assert model.body.conv1.weight.grad.abs().max() > 0


@pytest.mark.usefixtures("undrawn")
def test_another_resolution_adds_two_parameters_per_batchnorm_channel():
    def count(sizes):
        model = rsquant.create("resnet18", 2, 2, sizes, num_classes=3)
        channels = sum(
            m.num_features for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)
        )
        return sum(p.numel() for p in model.parameters()), channels

    (one, channels), (three, same) = count((224,)), count((224, 160, 96))
    assert channels == same
    assert three - one == 2 * 2 * channels


@pytest.mark.parametrize(
    "largest,stem",
    [(224, "imagenet"), (65, "imagenet"), (64, "small"), (41, "small"), (40, "tiny"), (32, "tiny")],
)
def test_the_stem_follows_the_largest_resolution_and_says_why(largest, stem):
    name, why = choose_stem("auto", (largest, 32))
    assert name == stem
    assert f"the largest resolution, {largest}, is" in why


def test_a_small_image_keeps_more_pixels_with_its_stem():
    x = torch.randn(1, 3, 32, 32)
    for stem, side in (("imagenet", 8), ("small", 16), ("tiny", 32)):
        model = rsquant.create("resnet18", 2, 2, (32,), width=4, num_classes=3, stem=stem).eval()
        shapes = []
        model.body.layer1.register_forward_hook(lambda m, a, out, s=shapes: s.append(out.shape[-1]))
        model(x)
        assert shapes == [side]


@pytest.mark.parametrize(
    "name,hint",
    [
        ("resnet5O", "did you mean 'resnet50'"),
        ("torchvision:mobilenetv2", "did you mean 'torchvision:mobilenet_v2'"),
        ("vit", "known: resnet18"),
    ],
)
def test_an_unknown_architecture_names_the_nearest(name, hint):
    with pytest.raises(ConfigError, match=hint):
        rsquant.create(name)


def test_a_resolution_below_the_stride_is_refused():
    with pytest.raises(
        ModelError, match="resolution 16 is smaller than the network's stride of 32"
    ):
        rsquant.create("resnet18", resolutions=(64, 16), stem="imagenet")


def test_a_wrong_stem_width_or_class_count_is_refused():
    for wrong, message in (
        ({"stem": "big"}, "stem: must be one of"),
        ({"width": 0}, "width: must"),
        ({"num_classes": 0}, "num_classes: must"),
    ):
        with pytest.raises(ConfigError, match=message):
            rsquant.create("resnet18", **wrong)


@pytest.mark.usefixtures("undrawn")
def test_mobilenet_v2_has_the_published_size_and_no_dropout():
    counts = []
    for sizes in ((224,), (224, 192, 160, 128, 96)):
        model = rsquant.create("mobilenet_v2", 32, 32, sizes)
        assert not any(isinstance(m, nn.Dropout) for m in model.modules())
        counts.append(sum(p.numel() for p in model.parameters()))
    # RS-Nets, table 2: 3.34 M (of 2**20); a resolution more has 2 x 17,056 values of BatchNorms.
    assert round(counts[0] / 2**20, 2) == 3.34
    assert counts[1] - counts[0] == 4 * 2 * 17_056
    names = torchvision.models.mobilenet_v2().state_dict().keys()
    assert {n.removeprefix("body.") for n in model.state_dict()} == {
        n for n in names if not n.endswith("num_batches_tracked")
    }


def test_mobilenet_v2_takes_no_width_and_no_stem():
    for wrong in ({"width": 32}, {"stem": "small"}):
        with pytest.raises(ConfigError, match="leave out stem, block and width"):
            rsquant.create("mobilenet_v2", 2, 2, (64,), **wrong)
