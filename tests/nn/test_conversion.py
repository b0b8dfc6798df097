"""What a conversion reports: quantized, kept, left; and that nothing stays in float unnamed."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rsquant
from rsquant.errors import ModelError
from rsquant.nn import (
    Conversion,
    QuantConv2d,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
)
from rsquant.nn.freeze import freeze

SIZES = (32, 24)


class Net(nn.Module):
    """Stem, then what a test gives, then a classifier."""

    def __init__(self, middle=None, run=None, **more):
        super().__init__()
        self.stem, self.bn, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.middle = middle
        self.run = run
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        if self.run is not None:
            x = self.run(self, x)
        elif self.middle is not None:
            x = self.middle(x)
        return self.fc(x.mean((2, 3)))


def converted(*args, keep=None, **more):
    torch.manual_seed(0)
    return rsquant.convert(Net(*args, **more), 2, 2, SIZES, keep=keep)


def test_the_report_names_what_was_quantized_kept_and_left():
    middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 8, 2, 2))
    report = converted(middle).conversion
    assert isinstance(report, Conversion)
    assert report.quantized == ("middle.0",)
    assert report.kept == {"stem": "reads the image", "fc": "head"}
    assert report.left == {"middle.1": "ConvTranspose2d has no low-bit form"}
    assert report.summary() == (
        "1 layer quantized, kept: stem (reads the image), fc (head), "
        "left in float: middle.1 (ConvTranspose2d has no low-bit form)"
    )
    assert str(report).splitlines() == [
        "1 layer quantized to W2A2",
        "kept in float: stem: reads the image",
        "kept in float: fc: head",
        "left in float: middle.1: ConvTranspose2d has no low-bit form",
    ]


def test_long_lists_are_shortened_in_one_line_only():
    middle = nn.Sequential(*(nn.ConvTranspose2d(8, 8, 1) for _ in range(10)))
    report = converted(middle).conversion
    assert "middle.7 and 2 more (ConvTranspose2d" in report.summary()
    assert "middle.9" in str(report)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def few(x):
    """Convert looks at 256 x 256 pixels too: attention among all of them would take seconds."""
    return F.avg_pool2d(x, 4)


def attention(m, x):
    x = few(x)
    t = tokens(x)
    return m.middle(t, t, t)[0].transpose(1, 2).unflatten(2, x.shape[-2:])


OTHER_LAYERS = [
    (nn.ConvTranspose2d(8, 8, 2, 2), None),
    (nn.Conv1d(8, 8, 1), lambda m, x: m.middle(x.flatten(2)).unflatten(2, x.shape[-2:])),
    (nn.Conv3d(1, 1, 1), lambda m, x: m.middle(x.unsqueeze(1)).squeeze(1)),
    (nn.Bilinear(8, 8, 8), lambda m, x: m.middle(*[x.mean((2, 3))] * 2)[:, :, None, None]),
    (nn.Embedding(4, 8), lambda m, x: x + m.middle(torch.zeros(1).long())[:, :, None, None]),
    (nn.LSTM(8, 8, batch_first=True), lambda m, x: m.middle(tokens(x))[0].mT[..., None]),
    (nn.MultiheadAttention(8, 2, batch_first=True), attention),
    (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda m, x: m.middle(tokens(few(x))).mT[..., None],
    ),
]


@pytest.mark.parametrize("layer,run", OTHER_LAYERS, ids=lambda v: type(v).__name__)
def test_layers_without_a_low_bit_form_are_named(layer, run):
    model = converted(copy.deepcopy(layer), run)
    kind = type(layer).__name__
    assert model.conversion.left == {"middle": f"{kind} has no low-bit form"}
    assert not any(isinstance(m, QuantConv2d) for m in model.body.middle.modules())
    model.train().forward_all([torch.randn(2, 3, s, s) for s in SIZES])


def functional_convolution(m, x):
    weight = m.weight - m.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight, m.bias, padding=1)


def test_parameters_a_forward_multiplies_with_are_named():
    left = converted(
        None,
        functional_convolution,
        weight=nn.Parameter(torch.randn(8, 8, 3, 3)),
        bias=nn.Parameter(torch.zeros(8)),
    ).conversion.left
    assert left == {"weight": "parameter used by a convolution in Net"}
    projection = nn.Parameter(torch.randn(8, 8))
    report = converted(
        None, lambda m, x: F.linear(x.permute(0, 2, 3, 1), m.w).permute(0, 3, 1, 2), w=projection
    ).conversion
    assert report.left == {"w": "parameter used by a matrix product in Net"}


def test_parameters_that_scale_or_shift_are_not_named():
    gain, shift = nn.Parameter(torch.ones(1, 8, 1, 1)), nn.Parameter(torch.zeros(1, 8, 1, 1))
    model = converted(None, lambda m, x: x * m.gain + m.shift, gain=gain, shift=shift)
    assert model.conversion.left == {}


def test_a_layer_whose_weight_is_used_without_calling_it_stays_and_is_named():
    layer = nn.Conv2d(8, 8, 1)
    model = converted(layer, lambda m, x: F.conv2d(x, m.middle.weight, m.middle.bias))
    assert type(model.body.middle) is nn.Conv2d
    assert model.conversion.left == {
        "middle": "weight used by a convolution in Net, without calling the layer"
    }
    both = converted(
        nn.Conv2d(8, 8, 1), lambda m, x: F.conv2d(m.middle(x), m.middle.weight)
    ).conversion
    assert both.quantized == ("middle",)
    assert "also used by a convolution" in both.left["middle.weight"]


def test_a_layer_that_is_not_registered_is_reported():
    report = converted(None, lambda m, x: m.loose[0](x), loose=[nn.Conv2d(8, 8, 1)]).conversion
    assert report.left == {"Net": "a convolution with a weight that is not a parameter of it"}


def flat_norm(m, x):
    return m.middle(x.flatten(2)).unflatten(2, x.shape[-2:])


def switched_1d():
    model = converted(nn.BatchNorm1d(8), flat_norm)
    with torch.no_grad():
        model.body.middle.running_mean.normal_(generator=torch.Generator().manual_seed(0))
        model.body.middle.weight.uniform_(0.5, 2.0)
    return model


def test_a_batchnorm1d_is_switched_too():
    model = switched_1d()
    norm = model.body.middle
    assert type(norm) is SwitchableBatchNorm1d and model.conversion.left == {}
    assert norm.weight.shape == (2, 8)
    before = norm.running_mean.clone()
    model.train()
    model(torch.randn(4, 3, 24, 24))
    assert torch.equal(norm.running_mean[0], before[0])
    assert not torch.equal(norm.running_mean[1], before[1])


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 3)])
def test_a_switched_batchnorm1d_is_torchs_at_its_row(shape):
    model, x = switched_1d().eval(), torch.randn(shape)
    norm = model.body.middle
    with model.at(24), torch.no_grad():
        want = F.batch_norm(
            x, norm.running_mean[1], norm.running_var[1], norm.weight[1], norm.bias[1]
        )
        assert torch.equal(norm(x), want)


def test_a_switched_batchnorm1d_is_frozen_saved_and_refused_by_pack(tmp_path):
    model = switched_1d().eval()
    x = torch.randn(2, 3, 24, 24)
    plain = freeze(model, 24)
    assert type(plain.middle) is nn.BatchNorm1d
    assert torch.allclose(plain(x), model(x), atol=1e-5)
    rsquant.save(model, tmp_path / "a.safetensors")
    fresh = converted(nn.BatchNorm1d(8), flat_norm)
    assert torch.equal(rsquant.load(tmp_path / "a.safetensors", into=fresh)(x), model(x))


def test_other_norms_with_statistics_are_refused_by_name():
    with pytest.raises(ModelError, match=r"middle: is a InstanceNorm2d, whose"):
        converted(nn.InstanceNorm2d(8, track_running_stats=True))


def test_norms_without_statistics_stay():
    assert converted(nn.Sequential(nn.InstanceNorm2d(8), nn.GroupNorm(2, 8))).conversion.left == {}


def test_a_layer_that_does_not_run_stays_in_float_and_is_named(caplog):
    middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    with caplog.at_level(logging.WARNING, "rsquant"):
        model = converted(middle, lambda m, x: m.middle[0](x))
    assert model.conversion.quantized == ("middle.0",)
    why = "does not run in evaluation, as far as random images show"
    assert model.conversion.left == {"middle.1": why, "middle.2": why}
    assert type(model.body.middle[1]) is nn.Conv2d
    assert "middle.1, middle.2 (does not run" in caplog.text


def test_a_layer_that_runs_at_one_size_only_runs():
    middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    model = converted(middle, lambda m, x: m.middle[int(x.shape[-1] > 20)](x))
    assert model.conversion.left == {}
    assert model.conversion.quantized == ("middle.0", "middle.1")


def test_layers_of_the_network_given_held_in_a_closure_are_named():
    outside = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
    model = converted(outside, lambda m, x: outside(x))
    assert {"middle.0", "middle.1"} <= model.conversion.left.keys()
    assert model.conversion.quantized == ()


def test_batchnorms_of_the_network_given_held_in_a_closure_are_refused():
    class Closure(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.fc = nn.Linear(8, 2)
            norm = self.bn
            self.act = lambda x: norm(x).relu()

        def forward(self, x):
            return self.fc(self.act(self.conv(x)).mean((2, 3)))

    with pytest.raises(ModelError, match=r"Closure: none of its BatchNorm2d layers runs \(bn\)"):
        rsquant.convert(Closure(), 2, 2, SIZES)


def test_a_forward_that_is_called_itself_runs_the_converted_layer():
    model = converted(nn.BatchNorm2d(8), lambda m, x: m.middle.forward(x))
    assert model.conversion.left == {}


def test_a_forward_that_needs_the_layers_of_before_is_refused():
    def run(m, x):
        return x * m.bn.running_mean.view(1, 8, 1, 1)

    with pytest.raises(ModelError, match=r"Net: does not run at .* pixels once it is converted"):
        converted(run=run)


def test_what_is_left_is_also_a_log_warning(caplog):
    with caplog.at_level(logging.WARNING, "rsquant"):
        converted(nn.Conv2d(8, 8, 1))
        assert not caplog.records
        converted(nn.ConvTranspose2d(8, 8, 1))
    (record,) = caplog.records
    assert "Net: 0 layers quantized" in record.getMessage()
    assert "middle (ConvTranspose2d has no low-bit form)" in record.getMessage()


def test_named_layers_are_kept_and_no_others():
    middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 8, 1))
    report = converted(middle, keep=["middle.0", "middle.1"]).conversion
    assert report.kept == {"middle.0": "named in keep", "middle.1": "named in keep"}
    assert report.quantized == ("stem", "fc")
    assert report.left == {}


def test_at_32_bits_nothing_is_quantized():
    report = rsquant.convert(Net(nn.Conv2d(8, 8, 1)), 32, 32, SIZES).conversion
    assert report.quantized == ()
    assert set(report.kept) == {"stem", "middle", "fc"}
    assert report.summary() == "no layer quantized (32-bit weights and activations)"


def test_networks_by_name_have_a_report_too():
    model = rsquant.create("torchvision:mnasnet0_5", 2, 2, (64, 32), num_classes=3)
    assert model.conversion.kept == {"layers.0": "reads the image", "classifier.1": "head"}
    assert rsquant.create("resnet18", 2, 2, (32,), 3, width=4).conversion is None


def aliased(m, x):
    for layer in m.alias:
        x = layer(x)
    return m.middle[0](x)


def test_layers_reached_by_a_plain_list_are_quantized_and_frozen_too():
    layers = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)])
    model = converted(layers, aliased, alias=list(layers))
    assert model.conversion.quantized == ("middle.0",)
    assert model.body.alias[0] is model.body.middle[0]
    assert isinstance(model.body.alias[0], QuantConv2d)
    assert isinstance(model.body.alias[1], SwitchableBatchNorm2d)
    with torch.no_grad():
        model.body.bn.bias[1] += 1
        model.body.middle[1].weight[1] *= 2
    frozen = freeze(model.eval(), 24)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(frozen(x), model(x), rtol=1e-6, atol=1e-6)
    assert not any(isinstance(m, (QuantConv2d, SwitchableBatchNorm2d)) for m in frozen.modules())


def test_hooks_and_own_attributes_of_a_layer_stay():
    layer, calls = nn.Conv2d(8, 8, 1), []
    layer.note = "mine"
    layer.register_forward_hook(lambda *_: calls.append(1))
    model = converted(layer)
    calls.clear()
    model(torch.randn(2, 3, 32, 32))
    assert model.body.middle.note == "mine"
    assert calls == [1]


def test_lazy_layers_take_the_shapes_of_the_largest_resolution():
    middle = nn.Sequential(nn.LazyConv2d(8, 1), nn.LazyBatchNorm2d())
    network = Net(middle)
    model = rsquant.convert(network, 2, 2, SIZES)
    assert model.conversion.quantized == ("middle.0",)
    assert isinstance(network.middle[0], nn.LazyConv2d)  # the network given stays as it was
    assert isinstance(model.body.middle[1], SwitchableBatchNorm2d)


def test_frozen_parameters_stay_frozen_one_by_one():
    network = Net(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)))
    frozen = {"stem.weight", "bn.bias", "middle.0.bias", "middle.1.weight", "fc.weight"}
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    network.middle[1].eval()
    for keep in (None, ()):
        model = rsquant.convert(network, 2, 2, SIZES, keep=keep)
        body = {n for n, p in model.body.named_parameters() if not p.requires_grad}
        assert body == frozen
        assert not model.body.middle[1].training and model.body.bn.training
    assert {n for n, p in network.named_parameters() if not p.requires_grad} == frozen
    assert network.training and not network.middle[1].training


def test_a_parametrized_layer_can_be_kept():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
    assert converted(layer, keep=["middle"]).conversion.kept == {"middle": "named in keep"}
