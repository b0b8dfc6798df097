"""A training with more bits first: its phases, what they keep, and resuming in each of them."""

import dataclasses
import shutil

import pytest
import torch
from small_runs import CONFIG, Silent, state, train

import rsquant
from rsquant import config as configs
from rsquant import runs
from rsquant.config import ModelConfig, RunConfig
from rsquant.errors import CheckpointError, ConfigError
from rsquant.train import loop, training
from rsquant.train.bits_schedule import Phase, in_phase, phases, with_epochs
from rsquant.train.metrics import read_metrics
from rsquant.train.other_bits import carry_over
from rsquant.train.state import TrainingState

# Calibration, two steps and a validation.
STEPS = 4
SHORT = dataclasses.replace(
    CONFIG, data=dataclasses.replace(CONFIG.data, train_images=32, val_images=8)
)


def scheduled(text, epochs=3, config=CONFIG, **model):
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        train=dataclasses.replace(config.train, bits_schedule=text, epochs=epochs),
    )


@pytest.mark.parametrize(
    "text,epochs,expected",
    [
        ("", 7, [(None, 0, 7)]),
        ("4,3,2", 30, [(4, 0, 10), (3, 10, 20), (2, 20, 30)]),
        ("4,3,2", 10, [(4, 0, 3), (3, 3, 7), (2, 7, 10)]),
        ("4, 2", 3, [(4, 0, 2), (2, 2, 3)]),
        ("4:5,3:5,2:20", 30, [(4, 0, 5), (3, 5, 10), (2, 10, 30)]),
        ("4:5,2", 30, [(4, 0, 5), (2, 5, 30)]),
        ("2", 3, [(2, 0, 3)]),
    ],
)
def test_phases_of_a_schedule(text, epochs, expected):
    assert phases(scheduled(text, epochs)) == tuple(Phase(*one) for one in expected)


@pytest.mark.parametrize(
    "text,message",
    [
        ("4,x", "must be bits from more to fewer"),
        ("2,4", "must be bits from more to fewer"),
        ("4,,2", "must be bits from more to fewer"),
        ("4:,2", "must be bits from more to fewer"),
        ("32,2", "must be bits from more to fewer"),
        ("4,3", "must end with 2, the network's"),
        ("4:9,3:1,2:20", "must add up to the 3 epochs"),
        ("4:2,3:1,2", "must add up to the 3 epochs"),
        ("4,3:1,2", "all bits but the last need epochs"),
        ("4,3,2,1", "must end with 2"),
    ],
)
def test_what_is_no_schedule_is_refused(text, message):
    with pytest.raises(ConfigError, match=f"bits_schedule: .*{message}"):
        phases(scheduled(text))


def test_a_schedule_needs_low_bits_and_an_epoch_for_each():
    with pytest.raises(ConfigError, match="must end with none: the network's are 32"):
        phases(scheduled("4,2", wbits=32, abits=32))
    with pytest.raises(ConfigError, match="needs 2 epochs or more, got 1"):
        phases(scheduled("4,2", 1))


def test_layers_keep_bits_that_they_have_more_of():
    model = ModelConfig(wbits=1, abits=2, layer_bits={"a": "4/32", "b": "/1", "c": "2/"})
    config = dataclasses.replace(RunConfig(), model=model)
    found = in_phase(config, Phase(3, 0, 10)).model
    assert (found.wbits, found.abits) == (3, 3)
    assert found.layer_bits == {"a": "4/32", "b": "/3", "c": "3/"}
    assert in_phase(config, Phase(1, 10, config.train.epochs)) == config
    weights = dataclasses.replace(config, model=dataclasses.replace(model, abits=32))
    assert in_phase(weights, Phase(3, 0, 10)).model.abits == 32


def test_more_epochs_go_to_the_last_bits():
    config = with_epochs(scheduled("4,3,2", 6))
    assert config.train.bits_schedule == "4:2,3:2,2"
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=9))
    assert phases(longer)[-1] == Phase(2, 4, 9)


TWO_PHASES = scheduled("3,2", 2, SHORT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return root / "whole", train(root, "whole", config=TWO_PHASES)


def test_a_run_goes_through_the_phases(whole):
    run, lines = whole
    assert any(line.startswith("bits schedule: 3 in epochs 1 to 1, 2 in") for line in lines)
    assert [line[:27] for line in lines if line.startswith("from epoch")] == [
        "from epoch 2 on W2A2: levels"[:27]
    ]
    assert sum(line.startswith("calibration") for line in lines) == 2
    for name in (runs.BEST, runs.LAST):
        assert rsquant.load(run / name).spec.bits_text == "W2A2"
    stored = configs.load_run(run / runs.CONFIG)
    assert stored.train.bits_schedule == "3:1,2" and stored.model.wbits == 2


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    "stop_after", [3, STEPS + 1, pytest.param(STEPS + 2, marks=pytest.mark.slow)]
)
def test_it_resumes_to_the_same_bits_in_every_phase(whole, tmp_path, stop_after):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", stop_after=stop_after, config=TWO_PHASES)
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(whole[0])[0], state(tmp_path / "cut")[0]
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_it_resumes_between_two_phases(whole, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(before, after):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "carry_over", killed)
        with pytest.raises(Killed):
            train(tmp_path, "cut", config=TWO_PHASES)
    assert rsquant.load(tmp_path / "cut" / runs.LAST).spec.bits_text == "W3A3"
    training.resume(tmp_path / "cut", Silent(), lambda line: None)
    expected, got = state(whole[0])[0], state(tmp_path / "cut")[0]
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_finished_run_takes_more_epochs_of_the_last_bits(whole, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "more")
    with pytest.raises(ConfigError, match="bits_schedule: "):
        training.resume(run, Silent(), lambda line: None, epochs=1)
    training.resume(run, Silent(), lambda line: None, epochs=3)
    assert [row["epoch"] for row in read_metrics(run)] == ["1", "2", "3"]
    assert rsquant.load(run / runs.LAST).spec.bits_text == "W2A2"


def test_a_state_of_another_schedule_is_refused(whole):
    other = scheduled("3,1", 3, wbits=1, abits=1)
    with pytest.raises(CheckpointError, match="is of another `bits_schedule` than 3,1"):
        training._phase_of(whole[0], other)


class Average:
    """A part that has a value for each parameter."""

    def __init__(self, model, value):
        self.values = {k: torch.full_like(v, value) for k, v in model.named_parameters()}

    def tensors(self):
        return self.values

    def load(self, tensors):
        self.values = dict(tensors)


def in_training(bits, value):
    torch.manual_seed(bits)
    model = rsquant.create("resnet18", bits, bits, (16,), 3, width=4, quantizer="lsq")
    alpha = torch.full((1,), float(value), requires_grad=True)
    optimizer = torch.optim.SGD([*model.parameters(), alpha], 0.01, momentum=0.9)
    made = TrainingState(model, alpha, optimizer)
    made.parts["average"] = Average(model, value)
    return made


def test_what_does_not_depend_on_bits_is_kept():
    before, after = in_training(4, 1), in_training(2, 2)
    before.model.train()(torch.randn(4, 3, 16, 16)).square().mean().backward()
    before.optimizer.step()
    before.epoch = 3
    started = rsquant.create("resnet18", 2, 2, (16,), 3, width=4, quantizer="lsq")
    carry_over(before, after)
    assert after.epoch == 3 and torch.equal(after.alpha, before.alpha)
    old, new = (dict(s.model.named_parameters()) for s in (before, after))
    assert old.keys() == new.keys()
    for name in new:
        momentum = after.optimizer.state[new[name]].get("momentum_buffer")
        value = after.parts["average"].values[name]
        if name.endswith(".step"):
            assert momentum is None and (value == 2).all()
        else:
            assert torch.equal(new[name], old[name]) and (value == 1).all()
            assert torch.equal(momentum, before.optimizer.state[old[name]]["momentum_buffer"])
    layer = after.model.body.layer2[0].conv1
    fresh = started.body.layer2[0].conv1
    fresh.weight_quantizer.start_from(layer.weight)
    assert torch.equal(layer.weight_quantizer.step, fresh.weight_quantizer.step)
