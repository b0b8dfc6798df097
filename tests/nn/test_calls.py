"""What belongs to one call of a network: threads at other sizes, and recomputations in backward."""

import copy
import threading

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import rsquant
from rsquant.errors import ModelError
from rsquant.nn import QuantConv2d, SwitchableBatchNorm2d

SIZES = (32, 24, 16)


class Plain(nn.Module):
    """Three stages; `run` calls a stage."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.Sequential(*(self.stage(stride) for stride in (1, 2, 1)))
        self.fc = nn.Linear(8, 5)

    @staticmethod
    def stage(stride):
        return nn.Sequential(
            nn.Conv2d(8, 8, 3, stride, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)
        )

    def run(self, x):
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x):
        return self.fc(self.run(self.conv(x)).mean((2, 3)))


class Reentrant(Plain):
    def run(self, x):
        for stage in self.stages:
            x = checkpoint(stage, x, use_reentrant=True)
        return x


class NonReentrant(Plain):
    def run(self, x):
        for stage in self.stages:
            x = checkpoint(stage, x, use_reentrant=False)
        return x


class Sequential(Plain):
    def run(self, x):
        return checkpoint_sequential(self.stages, 2, x, use_reentrant=False)


class Nested(Plain):
    """A checkpointed function in a checkpointed function, of both kinds."""

    inner, outer = True, True

    def inside(self, x):
        return self.stages[2](checkpoint(self.stages[1], x, use_reentrant=self.inner))

    def run(self, x):
        return checkpoint(self.inside, self.stages[0](x), use_reentrant=self.outer)


class NestedInNonReentrant(Nested):
    inner, outer = False, False


class NestedMixed(Nested):
    inner, outer = True, False


class Twice(Plain):
    """A layer that runs twice in one checkpointed function, at bases that move in between."""

    def twice(self, x):
        return self.stages[1](self.stages[2](self.stages[2](self.stages[0](x))))

    def run(self, x):
        return self.twice(x)


class TwiceCheckpointed(Twice):
    def run(self, x):
        return checkpoint(self.twice, x, use_reentrant=False)


def made(kind, **options):
    torch.manual_seed(0)
    network = rsquant.convert(kind(), 2, 2, SIZES, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SwitchableBatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.2, 0.2, generator=generator)
                module.running_mean.normal_(generator=generator)
    return network.train()


def images(size, n=4):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


def together(network):
    return network.forward_all([images(s) for s in SIZES])


def one_by_one(network):
    return [network(images(s)) for s in SIZES]


def largest_only(network):
    network.basis_updates = "largest"
    return together(network)


def pinned(network):
    with network.at(24):
        return [network(images(32))]


def assert_same_step(network, twin, forward=together, twin_forward=None):
    """Losses, gradients, statistics and bases after one step, and after the next."""
    for step in range(2):
        torch.manual_seed(step)
        got = forward(network)
        sum(z.square().mean() for z in got).backward()
        torch.manual_seed(step)
        want = (twin_forward or forward)(twin)
        sum(z.square().mean() for z in want).backward()
        for x, y in zip(got, want, strict=True):
            assert torch.equal(x, y)
        for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
            # Gradients of several uses are added in another order.
            assert (p.grad - q.grad).abs().max() <= 1e-5 * q.grad.abs().max() + 1e-7, name
        for name, value in twin.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name


FORMS = [Reentrant, NonReentrant, Sequential, Nested, NestedInNonReentrant, NestedMixed]


@pytest.mark.parametrize(
    ("kind", "forward"),
    [(kind, together) for kind in FORMS]
    + [(kind, f) for kind in (Reentrant, NonReentrant) for f in (one_by_one, largest_only, pinned)],
)
def test_a_checkpointed_network_takes_the_same_step(kind, forward):
    assert_same_step(made(kind), made(Plain), forward)


def test_a_layer_that_runs_twice_in_a_checkpoint_has_both_bases_again():
    assert_same_step(made(TwiceCheckpointed), made(Twice), one_by_one)


def test_a_cumulative_average_counts_a_recomputed_batch_once():
    networks = [made(kind) for kind in (NonReentrant, Plain)]
    for network in networks:
        for norm in network.modules():
            if isinstance(norm, SwitchableBatchNorm2d):
                norm.momentum = None
                norm.register_buffer("num_batches_tracked", torch.zeros(3, dtype=torch.long))
    assert_same_step(*networks)


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_whole_network_can_be_checkpointed(reentrant):
    def whole(network):
        x = [images(s).requires_grad_() for s in SIZES]
        return [checkpoint(network, y, use_reentrant=reentrant) for y in x]

    assert_same_step(made(Plain), made(Plain), whole, one_by_one)


def test_backward_inside_of_another_size_recomputes_at_the_sizes_of_the_forward():
    network, twin = made(NonReentrant), made(Plain)
    torch.manual_seed(0)
    loss = one_by_one(network)[1].square().mean()
    with network.at(16), network.weights_quantized_once():
        loss.backward()
    torch.manual_seed(0)
    one_by_one(twin)[1].square().mean().backward()
    assert torch.allclose(network.body.conv.weight.grad, twin.body.conv.weight.grad, rtol=1e-4)


def test_backward_in_another_thread_recomputes_at_the_sizes_of_the_forward():
    network, twin = made(Reentrant), made(Plain)

    def in_thread(network):
        logits = together(network)
        thread = threading.Thread(target=sum(z.sum() for z in logits).backward)
        thread.start()
        thread.join()
        return logits

    torch.manual_seed(0)
    in_thread(network)
    torch.manual_seed(0)
    sum(z.sum() for z in together(twin)).backward()
    assert torch.allclose(network.body.conv.weight.grad, twin.body.conv.weight.grad, rtol=1e-4)
    for name, value in twin.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_torchvisions_memory_efficient_densenet_takes_the_same_step():
    def densenet(memory_efficient):
        return lambda: torchvision.models.DenseNet(
            8, (2, 2), 8, 2, num_classes=5, memory_efficient=memory_efficient
        )

    assert_same_step(made(densenet(True)), made(densenet(False)))


def test_a_failing_function_leaves_checkpointing_as_it_was():
    def fail(x):
        raise RuntimeError("stop")

    for reentrant in (True, False):
        with pytest.raises(RuntimeError, match="stop"):
            checkpoint(fail, torch.ones(1, requires_grad=True), use_reentrant=reentrant)
    assert_same_step(made(Nested), made(Plain))


class Own(torch.autograd.Function):
    """A checkpoint that is not torch's."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.function(x), grad)
        return None, x.grad


class OwnCheckpoint(Plain):
    def run(self, x):
        for stage in self.stages:
            x = Own.apply(stage, x)
        return x


def test_checkpointing_that_is_not_torchs_is_refused():
    loss = sum(z.sum() for z in together(made(OwnCheckpoint)))
    with pytest.raises(ModelError, match=r"runs in a backward pass.*use torch\.utils\.checkpoint"):
        loss.backward()


def test_frozen_batchnorms_in_a_checkpoint_that_is_not_torchs_are_refused():
    network = made(OwnCheckpoint).eval()
    with pytest.raises(ModelError, match="SwitchableBatchNorm2d: runs in a backward pass"):
        network(images(16)).sum().backward()


def between_layers(network, act):
    """Call act() in the middle of the first forward of a network."""

    def once(*_):
        handle.remove()
        act()

    handle = network.body.stages[0].register_forward_hook(once)


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_threads_use_one_network_at_two_sizes():
    network = made(Plain).eval()
    want = {s: network(images(s)) for s in SIZES}
    seen = []
    between_layers(network, lambda: seen.append(in_thread(lambda: network(images(16)))))
    assert torch.equal(network(images(32)), want[32])
    assert torch.equal(seen[0], want[16])


def test_many_threads_at_all_sizes_get_their_own_logits():
    network = made(Plain).eval()
    want = {s: network(images(s)) for s in SIZES}
    wrong = []

    def work(size):
        for _ in range(10):
            with torch.no_grad():
                if not torch.equal(network(images(size)), want[size]):
                    wrong.append(size)

    threads = [threading.Thread(target=work, args=(s,)) for s in SIZES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pinned_size_is_its_threads():
    network = made(Plain).eval()
    want = network(images(32))
    with network.at(16):
        assert torch.equal(in_thread(lambda: network(images(32))), want)
        assert not torch.equal(network(images(32)), want)


def test_weights_quantized_once_are_their_threads_and_blocks_nest():
    network = made(Plain).eval()
    conv = next(m for m in network.modules() if isinstance(m, QuantConv2d))
    with network.weights_quantized_once():
        held = conv.quantized_weight()
        with network.weights_quantized_once():
            assert conv.quantized_weight() is held
        assert conv.quantized_weight() is held
        with torch.no_grad():
            conv.weight.add_(1.0)
        assert in_thread(conv.quantized_weight) is not held
    assert conv.quantized_weight() is not held


def test_bases_that_stand_still_for_smaller_sizes_move_in_other_threads():
    network = made(Plain)
    network.basis_updates = "largest"
    quantizer = network.body.stages[1][0].input_quantizer
    states = []

    def look(*_):
        states.append((quantizer.still.value, in_thread(lambda: quantizer.still.value)))

    network.body.stages[0].register_forward_hook(look)
    together(network)
    assert states == [(False, False), (True, False), (True, False)]


def test_a_quantizer_that_a_user_stopped_stays_stopped():
    network = made(Plain)
    quantizer = network.body.stages[1][0].input_quantizer
    quantizer.updating = False
    before = quantizer.basis.clone()
    together(network)
    assert torch.equal(quantizer.basis, before)
    assert not quantizer.updating


def test_replicas_of_dataparallel_take_the_pinned_size_along():
    network = made(Plain).eval()
    with network.at(16):
        want = network(images(32))
        replica = network._replicate_for_data_parallel()
        assert torch.equal(in_thread(lambda: replica(images(32))), want)


def test_a_copy_made_at_a_size_is_not_at_that_size():
    network = made(Plain).eval()
    want = network(images(32))
    with network.at(16), network.weights_quantized_once():
        twin = copy.deepcopy(network)
    assert torch.equal(twin(images(32)), want)
    assert torch.equal(in_thread(lambda: twin(images(32))), want)


@pytest.mark.slow
def test_torch_compile_follows_the_size_and_the_pinned_size():
    torch.manual_seed(0)
    network = rsquant.convert(Plain(), 32, 32, SIZES).eval()
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, SwitchableBatchNorm2d):
                norm.running_mean.normal_()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        for size in (32, 16):
            assert torch.equal(compiled(images(size)), network(images(size)))
        with network.at(24):
            assert torch.equal(compiled(images(16)), network(images(16)))
