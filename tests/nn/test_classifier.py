"""Another number of classes: which layers get it, what stays, and what is refused."""

import copy

import narrow
import pytest
import torch
from shallow import RESNET10
from torch import nn

import rsquant
from rsquant import runtime
from rsquant.errors import CheckpointError, ConfigError, ModelError, RsquantError
from rsquant.nn.quantized import QuantLinear

SIZES = (32, 16)


class Tiny(nn.Module):
    """Logits are what `head` makes of 8 features."""

    def __init__(self, head):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.middle, self.relu = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), head

    def forward(self, x):
        x = self.pool(self.relu(self.middle(self.relu(self.norm(self.conv(x))))))
        return self.head(x.flatten(1))


class Sum(nn.Module):
    """Logits of two layers, added."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 10), nn.Linear(8, 10, bias=False)

    def forward(self, x):
        return self.one(x) + self.two(x.square())


class ConvHead(nn.Module):
    """A 1x1 convolution as classifier, as in SqueezeNet."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 10, 1)

    def forward(self, x):
        return self.conv(x[..., None, None]).flatten(1)


class Cosine(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), self.weight)


def convert(head, **options):
    torch.manual_seed(0)
    return rsquant.convert(Tiny(head), 2, 2, SIZES, **options).eval()


HEADS = {
    "linear": lambda: nn.Linear(8, 10),
    "sequence": lambda: nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)
    ),
    "two layers": Sum,
    "convolution": ConvHead,
    "activation after": lambda: nn.Sequential(nn.Linear(8, 10), nn.LogSoftmax(1)),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_form_of_head_gives_the_new_number_of_logits(head, tmp_path):
    model = convert(HEADS[head]())
    before = copy.deepcopy(model.state_dict())
    model.reset_classifier(4)
    assert (model.spec.num_classes, model.spec.classes) == (4, ())
    for size in SIZES:
        assert model(torch.randn(2, 3, size, size)).shape == (2, 4)
    after = model.state_dict()
    changed = [
        name
        for name, old in before.items()
        if not torch.equal(old, after[name])
        if old.shape == after[name].shape
    ]
    assert changed == []  # nothing but the heads
    path = tmp_path / "a.safetensors"
    rsquant.save(model, path)
    fresh = convert(HEADS[head]())
    fresh.reset_classifier(4)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(rsquant.load(path, into=fresh)(x), model(x))


def test_names_are_kept_with_the_network_and_in_its_files(tmp_path):
    model = convert(nn.Linear(8, 10))
    model.reset_classifier(["cat", "dog", "owl"])
    assert (model.spec.num_classes, model.spec.classes) == (3, ("cat", "dog", "owl"))
    rsquant.pack(model, tmp_path / "a.rsq")
    net = runtime.load(tmp_path / "a.rsq", threads=1, tune=False)
    assert net.classes == ("cat", "dog", "owl")
    model.reset_classifier(5)
    assert model.spec.classes == ()


def test_a_low_bit_head_stays_low_bit_and_starts_from_its_weights():
    model = convert(nn.Linear(8, 10), keep=["conv"])
    model.reset_classifier(6)
    head = model.body.head
    assert isinstance(head, QuantLinear) and (head.in_features, head.out_features) == (8, 6)
    assert head.weight_quantizer.bits == head.input_quantizer.bits == 2
    alike = QuantLinear.from_float(head, 2, 2)
    assert torch.equal(head.weight_quantizer.basis, alike.weight_quantizer.basis)
    assert model.train()(torch.randn(4, 3, 32, 32)).shape == (4, 6)


def test_hooks_attributes_dtype_and_sharing_of_the_head_stay():
    seen = []
    head = nn.Linear(8, 10, bias=False)
    head.mine = "kept"
    network = Tiny(head)
    network.also = head
    model = rsquant.convert(network, 2, 2, SIZES).bfloat16().eval()
    model.body.head.register_forward_hook(lambda *args: seen.append(1))
    model.reset_classifier(3)
    new = model.body.head
    assert new is model.body.also and new.mine == "kept" and new.bias is None
    assert new.weight.dtype == torch.bfloat16 and new.weight.requires_grad
    seen.clear()
    model(torch.randn(1, 3, 16, 16).bfloat16())
    assert seen == [1]


def test_the_new_weights_start_as_torch_starts_them():
    model = convert(nn.Linear(8, 10))
    torch.manual_seed(5)
    model.reset_classifier(3)
    torch.manual_seed(5)
    alike = nn.Linear(8, 3)
    assert torch.equal(model.body.head.weight, alike.weight)
    assert torch.equal(model.body.head.bias, alike.bias)


def test_a_network_built_by_name_comes_back_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    for arch in (RESNET10, "torchvision:shufflenet_v2_x0_5"):
        width = {"width": 4} if arch == RESNET10 else {}
        model = rsquant.create(arch, 2, 2, (64, 32), 10, **width).eval()
        model.reset_classifier(4)
        rsquant.save(model, path)
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(rsquant.load(path)(x), model(x))


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10)),
        nn.Sequential(nn.Linear(8, 10), nn.Unflatten(1, (2, 5)), nn.Flatten()),
    ],
    ids=["normalised logits", "fixed shape"],
)
def test_logits_that_are_computed_with_are_refused_and_nothing_changes(head):
    model = convert(head)
    before, spec = copy.deepcopy(model.state_dict()), model.spec
    with pytest.raises(ModelError, match=r"computes 10 logits from head.0, but not 4"):
        model.reset_classifier(4)
    assert model.spec == spec
    assert all(torch.equal(old, model.state_dict()[name]) for name, old in before.items())
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_head_of_a_class_of_its_own_is_refused_by_name():
    model = convert(Cosine(8, 10, bias=False))
    with pytest.raises(ModelError, match=r"head of Tiny is a Cosine, .* before rsquant.convert"):
        model.reset_classifier(4)


@pytest.mark.parametrize(
    "classes,message",
    [
        (0, "must be 1 to"),
        (-3, "must be 1 to"),
        (10**9, "must be 1 to"),
        (True, "must be their number, or a list"),
        (2.0, "must be their number, or a list"),
        ("cats", "must be their number, or a list"),
        ([1, 2], "must be their number, or a list"),
        ([], "an empty list"),
        (["cat", "dog", "cat"], "'cat' twice"),
        (["x" * 2000, "y"], "at most 1000 characters"),
    ],
)
def test_what_is_no_number_and_no_names_is_refused(classes, message):
    model = convert(nn.Linear(8, 10))
    with pytest.raises(ConfigError, match=message):
        model.reset_classifier(classes)
    assert model.body.head.out_features == model.spec.num_classes == 10


@pytest.mark.parametrize("what", ["save", "pack", "export_onnx"])
@pytest.mark.parametrize("made", ["converted", "by name"])
def test_a_head_replaced_by_hand_is_refused_with_what_to_call(what, made, tmp_path):
    if made == "converted":
        model, name = convert(nn.Linear(8, 10)), "head"
    else:
        model, name = rsquant.create(RESNET10, 2, 2, (32, 16), 10, width=4).eval(), "fc"
    inputs = getattr(model.body, name).in_features
    setattr(model.body, name, nn.Linear(inputs, 5))
    path = tmp_path / {"save": "a.safetensors", "pack": "a.rsq", "export_onnx": "a.onnx"}[what]
    gives = r"(gives 5 logits|fc.bias is \(5,\)|fc.weight is \(5, \d+\)).* model.reset_classifier"
    with pytest.raises(RsquantError, match=gives):
        getattr(rsquant, what)(model, path, **({"resolution": 32} if what == "export_onnx" else {}))
    assert list(tmp_path.iterdir()) == []
    model.reset_classifier(5)  # mends the description
    getattr(rsquant, what)(model, path, **({"resolution": 32} if what == "export_onnx" else {}))
    assert path.exists()


def test_other_changes_to_a_network_built_by_name_are_refused_by_save(tmp_path):
    def fewer(body):
        del body.layer4[1]

    def strided(body):
        body.layer2[1].conv1.padding = (2, 2)

    def unbiased(body):
        body.fc = nn.Linear(body.fc.in_features, 10, bias=False)

    for change, named in ((fewer, "layer4.1"), (strided, "layer2.1.conv1"), (unbiased, "fc.bias")):
        model = rsquant.create("resnet18", 2, 2, (64, 32), 10, width=4)
        change(model.body)
        path = tmp_path / "a.safetensors"
        with pytest.raises(ModelError, match=rf"not written, load would refuse it: .*{named}"):
            rsquant.save(model, path)
        assert not path.exists()


def test_a_network_that_no_longer_runs_is_not_saved(tmp_path):
    model = convert(nn.Linear(8, 10))
    model.body.head = nn.Linear(9, 10)
    with pytest.raises(ModelError, match=r"not written, .* 16 x 16 image it fails: .*mat1"):
        rsquant.save(model, tmp_path / "a.safetensors")
    model.body.head = nn.Identity()
    model.body.forward = lambda x: [x]
    with pytest.raises(ModelError, match=r"must give logits \(N, classes\), got list"):
        rsquant.save(model, tmp_path / "a.safetensors")


def test_saving_draws_no_random_numbers(tmp_path):
    model = rsquant.create(RESNET10, 2, 2, (64, 32), 7, width=4)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    rsquant.save(model, tmp_path / "a.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_other_classes_says_what_to_call(tmp_path):
    model = convert(nn.Linear(8, 10))
    model.reset_classifier(4)
    rsquant.save(model, tmp_path / "a.safetensors")
    fresh = convert(nn.Linear(8, 10))
    with pytest.raises(CheckpointError, match=r"num_classes 4.*given has 10; .*classifier\(4\)"):
        rsquant.load(tmp_path / "a.safetensors", into=fresh)
    fresh.reset_classifier(4)
    assert rsquant.load(tmp_path / "a.safetensors", body=fresh) is fresh  # its name in 0.1


def test_torchvision_networks_have_their_heads_replaced():
    for name in ("shufflenet_v2", "mobilenet_v2"):
        model = rsquant.convert(narrow.NETWORKS[name](), 2, 32, (64, 32)).eval()
        model.reset_classifier(3)
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
