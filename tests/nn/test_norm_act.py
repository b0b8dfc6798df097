"""BatchNorms of a class of its own, most of all those that run an activation too, as timm's do."""

import copy

import pytest
import torch
from norm_acts import NormAct
from torch import nn

import rsquant
from rsquant.errors import ModelError
from rsquant.nn import SwitchableBatchNorm2d
from rsquant.nn.freeze import fold_batchnorms, freeze
from rsquant.nn.norm import SwitchableBatchNorm1d

SIZES = (24, 16)


class ActOnly(nn.BatchNorm2d):
    """As in timm's first versions: no drop layer, and None where there is no activation."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.act = act

    def forward(self, x):
        x = super().forward(x)
        return x if self.act is None else self.act(x)


class ActThenDrop(nn.BatchNorm2d):
    """The modules run in another order than they are registered in."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop = nn.Dropout(0.4)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.drop(self.act(super().forward(x)))


class SyncAct(nn.SyncBatchNorm):
    """As timm's SyncBatchNormAct."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.Hardswish()
        self.drop = nn.Identity()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Nothing(nn.BatchNorm2d):
    """Other defaults, and nothing else."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)


class Named(nn.BatchNorm2d):
    """A part of the name that the BatchNorm itself would get."""

    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.Hardtanh()

    def forward(self, x):
        return self.norm(super().forward(x))


NORMS = {
    "relu": lambda: NormAct(8),
    "silu": lambda: NormAct(8, nn.SiLU()),
    "no act": lambda: NormAct(8, nn.Identity()),
    "dropout": lambda: NormAct(8, nn.LeakyReLU(), nn.Dropout2d(0.3)),
    "learned": lambda: NormAct(8, nn.PReLU(8)),
    "not affine": lambda: NormAct(8, affine=False),
    "averaging": lambda: NormAct(8, momentum=None),
    "act only": lambda: ActOnly(8, nn.GELU()),
    "none": lambda: ActOnly(8, None),
    "other order": lambda: ActThenDrop(8),
    "synchronised": lambda: nn.SyncBatchNorm(8),
    "synchronised act": lambda: SyncAct(8),
    "nothing": lambda: Nothing(8),
    "named": lambda: Named(8),
}


def network_of(norm, last=None):
    """A network whose second layer the norm follows, with statistics and parameters of its own."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        norm,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        last or nn.Identity(),
        nn.Linear(8, 4),
    )
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network


@pytest.mark.parametrize("kind", NORMS)
def test_the_network_computes_what_it_did_in_evaluation_and_in_training(kind):
    network = network_of(NORMS[kind]())
    converted = rsquant.convert(network, 32, 32, SIZES)
    x = torch.randn(6, 3, 24, 24)
    for training in (False, True, True, False):
        results = []
        for one in (network, converted):
            torch.manual_seed(1)
            results.append(one.train(training)(x))
        torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    norm = next(m for m in converted.body[4].modules() if isinstance(m, SwitchableBatchNorm2d))
    assert torch.equal(norm.running_mean[0], network[4].running_mean)
    assert not torch.equal(norm.running_mean[0], norm.running_mean[1])


@pytest.mark.parametrize("kind", NORMS)
def test_frozen_it_is_plain_torch_whose_batchnorm_folds(kind):
    network = network_of(NORMS[kind]()).eval()
    converted = rsquant.convert(network, 32, 32, SIZES).eval()
    folding = fold_batchnorms(freeze(converted, 16))
    assert (folding.folded, folding.left, folding.note) == (2, 0, None)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(folding.module(x), network(x), rtol=1e-4, atol=1e-5)


def test_norm_drop_and_act_are_modules_by_these_names():
    network = network_of(NormAct(8, nn.PReLU(8), nn.Dropout(0.2)))
    part = rsquant.convert(network, 2, 2, SIZES).body[4]
    assert [name for name, _ in part.named_children()] == ["norm", "drop", "act"]
    assert {"norm.weight", "norm.running_var", "act.weight"} <= part.state_dict().keys()
    assert type(part.norm) is SwitchableBatchNorm2d
    assert part.drop.p == 0.2


def test_what_is_trained_saves_and_loads(tmp_path):
    def made():
        return rsquant.convert(network_of(NormAct(8, nn.SiLU(), nn.Dropout(0.2))), 2, 2, SIZES)

    model = made().train()
    images = [torch.randn(4, 3, size, size) for size in SIZES]
    sum(z.square().mean() for z in model.forward_all(images)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    rsquant.save(model.eval(), tmp_path / "a.safetensors")
    loaded = rsquant.load(tmp_path / "a.safetensors", into=made()).eval()
    for x in images:
        assert torch.equal(loaded(x), model(x))


def test_batchnorms_that_share_their_parameters_stay_tied():
    first, second = NormAct(8), NormAct(8, nn.SiLU())
    second.weight = first.weight
    network = network_of(nn.Sequential(first, nn.Conv2d(8, 8, 1), second))
    body = rsquant.convert(network, 2, 2, SIZES).body
    assert body[4][0].norm.weight is body[4][2].norm.weight
    assert body[4][0].norm.bias is not body[4][2].norm.bias


def test_modes_hooks_and_attributes_stay():
    norm = NormAct(8, drop=nn.Dropout(0.5))
    norm.drop.eval()
    norm.note = "mine"
    norm.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    seen = []
    network = network_of(norm).train()
    norm.drop.eval()
    part = rsquant.convert(network, 2, 2, SIZES).body[4]
    assert (part.training, part.norm.training, part.drop.training) == (True, True, False)
    assert part.note == "mine"
    seen.clear()
    part(torch.randn(2, 8, 3, 3))
    assert seen == [(2, 8, 3, 3)]


def test_trying_a_class_out_calls_no_hook_and_draws_no_random_number():
    norm = NormAct(8, drop=nn.Dropout(0.5))
    called = []
    norm.act.register_forward_hook(lambda module, args, output: called.append(output.dtype))
    torch.manual_seed(3)
    network = network_of(norm)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    rsquant.convert(network, 32, 32, SIZES)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.float64 not in called
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("shape", ["vectors", "maps"])
def test_a_synchronised_batchnorm_is_the_one_its_values_ask_for(shape):
    vectors = shape == "vectors"
    network = network_of(
        nn.Identity() if vectors else nn.SyncBatchNorm(8),
        nn.SyncBatchNorm(8) if vectors else None,
    ).eval()
    model = rsquant.convert(network, 32, 32, SIZES).eval()
    kind = SwitchableBatchNorm1d if vectors else SwitchableBatchNorm2d
    assert type(model.body[7 if vectors else 4]) is kind
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(freeze(model, 16)(x), network(x), rtol=1e-5, atol=1e-6)


def test_statistics_of_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    network = network_of(nn.SyncBatchNorm(8)).eval()
    with pytest.raises(ModelError, match=r"4: is a SyncBatchNorm, whose.*all 4 processes"):
        rsquant.convert(network, 2, 2, SIZES)


class Vectors(nn.BatchNorm1d):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(super().forward(x))


def test_a_batchnorm1d_with_an_activation_is_taken_too():
    network = network_of(nn.Identity(), Vectors(8)).eval()
    model = rsquant.convert(network, 32, 32, SIZES).eval()
    assert type(model.body[7].norm) is SwitchableBatchNorm1d
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), network(x), rtol=1e-6, atol=1e-6)


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 1.01 * super().forward(x)


class Frozen(nn.BatchNorm2d):
    """Never in training, whatever the network is."""

    def train(self, mode=True):
        return super().train(False)


class Masked(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("mask", torch.ones(channels, 1, 1))

    def forward(self, x):
        return super().forward(x) * self.mask


class Centred(nn.BatchNorm2d):
    """The same in evaluation; other statistics."""

    def forward(self, x):
        result = super().forward(x)
        if self.training:
            self.running_var.mul_(0.9)
        return result


class Twice(NormAct):
    def forward(self, x):
        return self.act(super().forward(x) + 0.5)


class Blind(NormAct):
    """Holds an activation and does not run it."""

    def forward(self, x):
        return nn.BatchNorm2d.forward(self, x)


class Wide(nn.BatchNorm2d):
    """Takes nothing but the maps of its own network."""

    def forward(self, x):
        return super().forward(x.view(x.shape[0], 8, 9, 9)).tanh()


@pytest.mark.parametrize("kind", [Scaled, Frozen, Masked, Centred, Twice, Blind, Wide])
def test_what_computes_anything_else_is_refused_by_name(kind):
    sizes = (24,)
    network = network_of(kind(8)).eval()
    if kind is Wide:
        network[3] = nn.Conv2d(8, 8, 3)
        network.insert(4, nn.AdaptiveAvgPool2d(9))
    name = "5" if kind is Wide else "4"
    with pytest.raises(
        ModelError, match=f"^{name}: is a {kind.__name__}, whose own computation would be lost"
    ):
        rsquant.convert(network, 2, 2, sizes)


def test_one_without_statistics_is_refused_by_name():
    network = network_of(nn.BatchNorm2d(8)).eval()
    network[4] = NormAct(8, track_running_stats=False)
    network[4].forward = lambda x: x.relu()
    with pytest.raises(ModelError, match="4: is a NormAct with track_running_stats=False"):
        rsquant.convert(network, 2, 2, SIZES)


def test_group_norm_with_an_activation_is_no_batchnorm():
    class GroupNormAct(nn.GroupNorm):
        def forward(self, x):
            return super().forward(x).relu()

    body = rsquant.convert(network_of(GroupNormAct(2, 8)), 2, 2, SIZES).body
    assert type(body[4]).__name__ == "GroupNormAct"
