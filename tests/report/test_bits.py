"""Bits for a budget: the choice against all choices; networks with other bits layer by layer."""

import itertools

import pytest
import shallow  # noqa: F401  (ResNet-10)
import torch

from rsquant import create, load, save
from rsquant.config import ModelConfig, RunConfig, from_dict, to_dict
from rsquant.errors import ConfigError
from rsquant.nn.norm import switchable_norms
from rsquant.quantizers import quantizers_of
from rsquant.report.bit_budget import STEPS, Budget, best_bits, parse_budget
from rsquant.report.layers import layer_rows
from rsquant.report.opened import open_runs
from rsquant.report.sections import bits as bits_section
from rsquant.report.sections import sensitivity as sensitivity_section
from rsquant.report.trials import Trials

pytestmark = pytest.mark.usefixtures("one_start")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [10, 25, 40, 64, 1000])
def test_the_best_bits_are_the_best_of_all_choices(seed, budget):
    generator = torch.Generator().manual_seed(seed)
    costs = [
        dict(zip((1, 2, 3, 4), torch.rand(4, generator=generator).tolist(), strict=True))
        for _ in range(5)
    ]
    weights = torch.randint(1, 5, (5,), generator=generator).tolist()
    sizes = [{bits: bits * w for bits in (1, 2, 3, 4)} for w in weights]

    def total(choice, of):
        return sum(one[b] for one, b in zip(of, choice, strict=True))

    fitting = [c for c in itertools.product((1, 2, 3, 4), repeat=5) if total(c, sizes) <= budget]
    found = best_bits(costs, sizes, budget)
    if not fitting:
        assert found is None
        return
    assert total(found, sizes) <= budget
    assert total(found, costs) == pytest.approx(min(total(c, costs) for c in fitting))


def test_sizes_between_steps_are_rounded_up():
    budget = 10 * STEPS
    assert best_bits([{1: 1.0, 2: 0.0}], [{1: 3, 2: budget}], budget) == [2]
    assert best_bits([{1: 1.0, 2: 0.0}], [{1: 3, 2: budget + 1}], budget) == [1]


@pytest.mark.parametrize(
    "text,budget",
    [
        ("300KB", Budget(size=300_000)),
        ("1.5 MB", Budget(size=1_500_000)),
        ("70%", Budget(top1=70.0)),
        (" 0.5kb", Budget(size=500)),
    ],
)
def test_budgets_are_sizes_or_accuracies(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "300", "70 percent", "-3KB", "0%", "101%", "nan%", "1e3KB"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="must be a size of the weights like 300KB"):
        parse_budget(text)


SIZES = (48, 32)


def trials(path, **form):
    """Of a network with random weights and statistics."""
    torch.manual_seed(0)
    network = create("resnet10", resolutions=SIZES, num_classes=4, width=4, **form)
    save(network.eval(), path)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(24, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 4, (24,), generator=generator)
    run = open_runs([str(path)])[0]
    return run, Trials(run, 32, images[:8], images, labels, (1, 2, 3, 4)), images, labels


def with_new_statistics(run, images, labels):
    """Logits and losses of the network itself, its statistics those of the fitting images."""
    network = load(run.checkpoint.path)
    for norm in switchable_norms(network):
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images[:8])
        logits = network.eval()(images)
    return logits, torch.nn.functional.cross_entropy(logits, labels, reduction="none")


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return trials(tmp_path_factory.mktemp("low") / "low.safetensors", wbits=2, abits=2)


def test_layers_that_read_one_quantizer_are_one_unit(low):
    run, found, _, _ = low
    layers = [layer for unit in found.units for layer in unit.layers]
    assert sorted(layers) == sorted(r.name for r in layer_rows(run.network) if r.wbits == 2)
    shared = run.network.body.input_quantizers
    for unit in found.units:
        assert {shared[layer] for layer in unit.layers} == {unit.source}


def test_all_low_bit_is_the_network_with_new_statistics(low):
    """Against the network itself, its BatchNorms given the statistics of the fitting images."""
    run, found, images, labels = low
    logits, losses = with_new_statistics(run, images, labels)
    outcome = found.outcome(found.own)
    torch.testing.assert_close(outcome.losses, losses)
    assert outcome.top1 == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))


def test_all_float_is_the_network_without_quantizers(low):
    _, found, _, _ = low
    found.outcome({})
    assert not quantizers_of(found.network.body)
    found.outcome({found.units[0].name: 3})
    here = quantizers_of(found.network.body)
    assert {q.bits for q in here} == {3} and len(here) == 1 + len(found.units[0].layers)


def test_the_run_itself_stays_as_it_is(low):
    run, found, images, _ = low
    before = run.network(images)
    sensitivity_section.sensitivity(found)
    assert torch.equal(run.network(images), before)


def test_a_float_run_becomes_low_bit(tmp_path):
    run, found, images, labels = trials(
        tmp_path / "f.safetensors", wbits=32, abits=32, block="preact"
    )
    assert not quantizers_of(run.network.body)
    assert set(found.own.values()) == {2}
    _, losses = with_new_statistics(run, images, labels)
    torch.testing.assert_close(found.outcome({}).losses, losses, rtol=1e-4, atol=1e-4)


def test_suggested_bits_are_within_the_budget_and_usable(low):
    run, found, _, _ = low
    names = {layer for unit in found.units for layer in unit.layers}
    rest = sum(r.weight_bytes for r in layer_rows(run.network) if r.name not in names)
    two = sum(r.weight_bytes for r in layer_rows(run.network))
    suggestion = bits_section.suggest(found, Budget(size=two), rest)
    assert suggestion.size <= two == suggestion.uniform[2][0]
    most, others = bits_section.layer_bits(found, suggestion.bits, True, True)
    config = bits_section.config_with(RunConfig(ModelConfig("resnet10")), most, others, True, True)
    assert from_dict(to_dict(config)) == config
    # The network that it describes has the size that was said.
    network = create(
        "resnet10",
        config.model.wbits,
        config.model.abits,
        SIZES,
        num_classes=4,
        width=4,
        layer_bits=config.model.layer_bits,
    )
    assert sum(row.weight_bytes for row in layer_rows(network)) == suggestion.size


def test_budgets_that_nothing_meets_say_what_does(low):
    _, found, _, _ = low
    with pytest.raises(ConfigError, match=r"with 1 bit everywhere the weights take .* KB"):
        bits_section.suggest(found, Budget(size=100), 0)
    with pytest.raises(ConfigError, match="4 bits everywhere reach without training"):
        bits_section.suggest(found, Budget(top1=100.0), 0)


def retrained(config, found):
    """The network that a suggested configuration makes."""
    model = config.model
    given = {"num_classes": 4, "width": 4, "block": model.block, "layer_bits": model.layer_bits}
    return create("resnet10", model.wbits, model.abits, SIZES, **given)


def test_the_layers_of_a_float_run_keep_their_block(tmp_path):
    run, found, _, _ = trials(tmp_path / "f.safetensors", wbits=32, abits=32)
    assert run.network.spec.block == "post"
    chosen = {unit.name: 1 + index % 4 for index, unit in enumerate(found.units)}
    most, others = bits_section.layer_bits(found, chosen, True, True)
    before = RunConfig(ModelConfig("resnet10"))
    config = bits_section.config_with(before, most, others, True, True, run.network.spec.block)
    rows = {row.name: row for row in layer_rows(retrained(config, found))}
    for unit in found.units:
        assert {rows[name].wbits for name in unit.layers} == {chosen[unit.name]}


def test_what_patterns_leave_in_float32_stays_there(tmp_path):
    patterns = {"layer1.*": "32/32", "layer3.0.conv2": "32/"}
    run, found, _, _ = trials(tmp_path / "l.safetensors", wbits=2, abits=2, layer_bits=patterns)
    chosen = {unit.name: 1 + index % 4 for index, unit in enumerate(found.units)}
    most, others = bits_section.layer_bits(found, chosen, True, True)
    before = RunConfig(ModelConfig("resnet10", layer_bits=patterns))
    config = bits_section.config_with(before, most, others, True, True, run.network.spec.block)
    rows = {row.name: row for row in layer_rows(retrained(config, found))}
    for row in layer_rows(run.network):
        now = rows[row.name]
        assert (now.wbits == 32, now.abits == 32) == (row.wbits == 32, row.abits == 32)
    for unit in found.units:
        assert {rows[name].abits for name in unit.layers} == {chosen[unit.name]}
