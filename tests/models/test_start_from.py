"""Networks that start from the weights of others: what is taken, and what is said of the rest."""

import dataclasses

import pytest
import torch
from shallow import RESNET10

import rsquant
from rsquant.errors import CheckpointError
from rsquant.models.checkpoint import save
from rsquant.models.sources import Weights, open_network
from rsquant.nn.integer.endings import integer_heads
from rsquant.nn.norm import SwitchableBatchNorm2d

SIZES = (64, 32)


def network(wbits=2, abits=2, sizes=SIZES, classes=3, **more):
    return rsquant.create(RESNET10, wbits, abits, sizes, classes, width=4, **more)


def shaken(model):
    """BatchNorms and weights that differ in every row and channel."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def float_preact(tmp_path_factory):
    torch.manual_seed(0)
    model = shaken(network(32, 32, (64, 48, 32), block="preact"))
    path = tmp_path_factory.mktemp("source") / "float.safetensors"
    save(model, path)
    return path, model


@pytest.fixture(scope="module")
def low_bit(float_preact):
    model = network()
    return model, rsquant.start_from(model, float_preact[0])


def test_weights_and_rows_of_the_same_size_are_taken_as_they_are(float_preact, low_bit):
    source, (model, start) = float_preact[1].body, low_bit
    assert torch.equal(model.body.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.equal(model.body.fc.weight, source.fc.weight)
    ours, theirs = model.body.layer2[0].act2[0], source.layer2[0].act2[0]
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)[[0, 2]]), name
    assert not start.missing and not start.unused and not start.replaced


def test_a_size_between_two_is_interpolated_and_said(float_preact):
    model = network(sizes=(64, 40, 16))
    start = rsquant.start_from(model, float_preact[0])
    theirs, ours = float_preact[1].body.bn1.running_var, model.body.bn1.running_var
    torch.testing.assert_close(
        ours, torch.stack([theirs[0], (theirs[1] + theirs[2]) / 2, theirs[2]])
    )
    assert "40 between 48 and 32, 16 of 32" in str(start)


def test_weight_quantizers_fit_the_new_weights_as_well_as_a_search(low_bit):
    layer = low_bit[0].body.layer1[0].conv1
    rows = layer.weight.detach().flatten(1).double()
    levels = layer.weight_quantizer.levels().double()

    def errors(levels):
        return (rows.unsqueeze(-1) - levels.unsqueeze(1)).abs().amin(-1).square().sum(1)

    # All pairs of basis values on a lattice: an optimum of them is within its steps of the best.
    lattice = torch.linspace(0.02, 1.2, 30, dtype=torch.float64)
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for u in lattice:
        for v in lattice:
            top = rows.abs().amax(1, keepdim=True)
            signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
            best = torch.minimum(best, errors(top * (signs @ torch.stack([u, v]))))
    assert (errors(levels) <= 1.3 * best).all()


@pytest.mark.parametrize("block", ["post", "preact-bare"])
def test_other_blocks_give_what_has_a_counterpart(float_preact, block):
    model = network(32, 32, block=block)
    start = rsquant.start_from(model, float_preact[0])
    source = float_preact[1].body
    shortcut = model.body.layer2[0].downsample[0] if block == "post" else None
    shortcut = model.body.layer2[0].shortcut if shortcut is None else shortcut
    assert torch.equal(shortcut.weight, source.layer2[0].shortcut[0].weight)
    if block == "post":
        assert torch.equal(model.body.layer1[0].bn1.bias, source.layer1[0].act2[0].bias[[0, 2]])
        assert torch.equal(model.body.layer1[0].bn2.bias, source.layer1[0].bn.bias[[0, 2]])
        assert not start.missing
    assert start.unused  # BatchNorms that the other block does not have


def test_integer_networks_start_from_plain_ones_and_the_other_way(float_preact, tmp_path):
    model = network(integer=True)
    start = rsquant.start_from(model, float_preact[0])
    assert not start.missing and not start.unused
    assert torch.equal(model.body.conv1.norm.bias, float_preact[1].body.bn1.bias[[0, 2]])
    save(model, tmp_path / "integer.safetensors")
    again = network(integer=True)
    rsquant.start_from(again, tmp_path / "integer.safetensors")
    assert torch.equal(again.body.fc.layer.weight, model.body.fc.layer.weight)
    plain = network(grid="coarse")
    start = rsquant.start_from(plain, tmp_path / "integer.safetensors")
    assert torch.equal(plain.body.bn1.bias, model.body.conv1.norm.bias)
    assert not start.missing and not start.unused


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("mobilenet_v2_x0_25", {}),
        ("refinenet_lw_bn_resnet18", {"width": 2, "task": "segmentation"}),
    ],
)
def test_integer_networks_of_other_kinds_too(arch, more, tmp_path):
    def made(classes, **form):
        return rsquant.create(arch, 2, 2, (64, 48), classes, grid="coarse", **more, **form)

    torch.manual_seed(0)
    plain, model, other = made(5), made(5, integer=True), made(7, integer=True)
    save(plain, tmp_path / "plain.safetensors")
    start = rsquant.start_from(model, tmp_path / "plain.safetensors")
    assert not start.missing and not start.unused
    save(model, tmp_path / "integer.safetensors")
    start = rsquant.start_from(other, tmp_path / "integer.safetensors")
    heads = integer_heads(other.body)
    assert len(heads) == 1 and start.layers
    taken = [name for name in model.state_dict() if not name.startswith(("body.head", "body.c"))]
    assert len(taken) > 50
    for name in taken:
        tensor = model.state_dict()[name]
        assert torch.equal(other.state_dict()[name], tensor), name


def test_equal_quantizers_are_taken_with_their_state(low_bit, tmp_path):
    model = shaken(low_bit[0])
    save(model, tmp_path / "x.safetensors")
    other = network()
    start = rsquant.start_from(other, tmp_path / "x.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert start.quantizers and start.own_statistics
    assert not rsquant.start_from(network(4, 4), tmp_path / "x.safetensors").quantizers


@pytest.mark.parametrize(
    "own,changes",
    [
        (True, {"wbits": 32, "abits": 32, "block": "preact"}),
        (True, {"wbits": 32, "abits": 32, "block": "preact", "classes": 5}),
        (False, {"wbits": 32, "abits": 32, "block": "preact", "sizes": (64, 40)}),
        (False, {"wbits": 32, "abits": 32, "block": "post"}),
        (False, {"wbits": 2, "abits": 32, "block": "preact"}),
        (False, {}),
    ],
)
def test_statistics_are_the_networks_own_where_layers_read_the_same(float_preact, own, changes):
    assert rsquant.start_from(network(**changes), float_preact[0]).own_statistics == own


def test_other_classes_leave_the_classifier_new_and_say_so(float_preact):
    model = network(classes=5)
    before = model.body.fc.weight.clone()
    start = rsquant.start_from(model, float_preact[0])
    assert torch.equal(model.body.fc.weight, before)
    assert "fc stays new (3 classes in the source, 5 here)" in str(start)


def test_a_layer_of_another_shape_is_named_with_both(float_preact):
    model = rsquant.create(RESNET10, 2, 2, SIZES, 3, width=8)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"conv1.weight is \(4, .*network's \(8, .* more do"):
        rsquant.start_from(model, float_preact[0])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_source_where_nothing_fits_is_refused():
    weights = Weights("other", {"encoder.0.weight": torch.ones(3, 3)})
    with pytest.raises(CheckpointError, match=r"none of its 1 tensors \(encoder.0.weight\)"):
        rsquant.start_from(network(), weights)


def test_values_that_are_no_numbers_are_refused(float_preact):
    weights = Weights("bad", {"conv1.weight": torch.full((4, 3, 3, 3), torch.nan)})
    with pytest.raises(CheckpointError, match=r"bad: conv1\.weight has NaN"):
        rsquant.start_from(network(), weights)


class Plain(torch.nn.Module):
    def __init__(self, classes, prefix=""):
        super().__init__()
        self.add_module(f"{prefix}stem", torch.nn.Conv2d(3, 8, 3, 2, bias=False))
        self.add_module(f"{prefix}norm", torch.nn.BatchNorm2d(8))
        self.add_module(f"{prefix}next", torch.nn.Conv2d(8, 8, 3))
        self.add_module(f"{prefix}head", torch.nn.Linear(8, classes))

    def forward(self, x):
        stem, norm, following, head = self.children()
        return head(following(norm(stem(x)).relu()).relu().mean((2, 3)))


def test_other_names_are_matched_by_order_where_all_shapes_are_equal(tmp_path):
    source = shaken(Plain(10, "their_"))
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}},
        tmp_path / "x.pth",
    )
    model = rsquant.convert(Plain(3), 32, 32, SIZES, keep=())
    start = rsquant.start_from(model, tmp_path / "x.pth")
    assert "matched by order" in str(start) and "head stays new" in str(start)
    assert start.own_statistics
    norm = model.body.norm
    assert isinstance(norm, SwitchableBatchNorm2d)
    assert torch.equal(norm.running_var, source.their_norm.running_var.expand(2, -1))
    assert torch.equal(model.body.next.bias, source.their_next.bias)


def test_a_checkpoint_opens_as_a_network(float_preact):
    found = open_network(float_preact[0])
    assert found.resolutions == (64, 48, 32) and not found.network.training
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.network(images), float_preact[1].eval()(images))


def test_normalisation_goes_with_the_weights(float_preact, tmp_path):
    model = network(32, 32)
    model.spec = dataclasses.replace(model.spec, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    save(model, tmp_path / "x.safetensors")
    other = network()
    rsquant.start_from(other, tmp_path / "x.safetensors")
    assert other.spec.mean == (0.5, 0.5, 0.5) and other.spec.std == (0.25, 0.25, 0.25)
