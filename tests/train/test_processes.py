"""Training in several processes gives what one process gives with the same batch."""

import dataclasses

import pytest
import torch
from processes import together
from shallow import RESNET10

import rsquant
from rsquant.config import RunConfig, TrainConfig
from rsquant.data.sources import open_source
from rsquant.errors import ConfigError
from rsquant.nn.norm import switchable_norms
from rsquant.process_group import ALONE, ProcessGroup
from rsquant.tasks.classification import Accuracy
from rsquant.train.distributed import check_alike, check_batch
from rsquant.train.step import Step

CPU = torch.device("cpu")


def after(group, bits, images=9, steps=2, synced=True, **train):
    """The state as numpy, and the last figures, after steps of this process's part of batches."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = rsquant.create(
        RESNET10, resolutions=(32, 24), wbits=bits, abits=bits, num_classes=5, width=8
    ).train()
    for norm in switchable_norms(net):
        norm.synced = synced
    alpha = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([*net.parameters(), alpha], lr=0.1)
    step = Step(net, alpha, optimizer, TrainConfig(**train), CPU, group=group)
    generator = torch.Generator().manual_seed(1)
    begin, end = images * group.rank // group.world, images * (group.rank + 1) // group.world
    for _ in range(steps):
        pixels = [
            torch.randint(0, 256, (images, 3, s, s), dtype=torch.uint8, generator=generator)
            for s in net.resolutions
        ]
        labels = torch.randint(0, 5, (images,), generator=generator)
        part = [x[begin:end] for x in pixels]
        figures = step(part, labels[begin:end], 0.01, (end - begin) / images)
    state = net.state_dict() | {"alpha": alpha.detach()}
    return (
        {name: value.numpy() for name, value in state.items()},
        {name: float(value) for name, value in figures.items()},
    )


@pytest.mark.parametrize("bits", [32, 2])
def test_two_processes_give_the_weights_of_one_and_the_same_bits_in_both(bits):
    # Of 9 images one process has 4, the other 5. At 2 bits one step: a level that float32's
    # rounding turns over is a jump in the next.
    steps = 2 if bits == 32 else 1
    (first, figures), (second, _) = together(lambda group: after(group, bits, steps=steps))
    whole, expected = after(ALONE, bits, steps=steps)
    for name, value in whole.items():
        assert (first[name] == second[name]).all(), name
        torch.testing.assert_close(
            torch.tensor(first[name]), torch.tensor(value), rtol=1e-4, atol=2e-5, msg=name
        )
    assert figures == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_parts_of_two_processes_are_those_of_one():
    # Two parts in each of two processes have the images of four parts in one. BatchNorms normalise
    # by a part; their running statistics are means over processes, so not those of one after four.
    results = together(lambda group: after(group, 2, 16, 1, synced=False, accumulate=2))
    whole, expected = after(ALONE, 2, 16, 1, synced=False, accumulate=4)
    for name, value in whole.items():
        assert (results[0][0][name] == results[1][0][name]).all(), name
        if "running" not in name:
            torch.testing.assert_close(
                torch.tensor(results[0][0][name]),
                torch.tensor(value),
                rtol=1e-4,
                atol=2e-5,
                msg=name,
            )
    assert results[0][1] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_processes_whose_shares_differ_take_as_many_parts():
    # 7 images: 3, which cannot be two parts of two images, and 4, which could.
    (first, _), (second, _) = together(lambda group: after(group, 2, 7, 1, accumulate=2))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bits": ("4/4", "2/2"), "rows": [0, 3]},
        {"widths": (1.0, 0.5), "rows": [0, 3]},
    ],
)
def test_some_of_several_settings_are_trained_alike_and_none_is_warned_of(capfd, given):
    """DDP warns from C++ of a search for unused parameters that finds none."""
    given = dict(given)
    rows = given.pop("rows", None)

    def steps(group):
        torch.manual_seed(0)
        sizes = {"resolutions": (32, 24), "num_classes": 5, "width": 8}
        net = rsquant.create(RESNET10, **sizes, **given).train()
        alpha = torch.ones(len(net.settings), requires_grad=True)
        optimizer = torch.optim.SGD([*net.parameters(), alpha], lr=0.1)
        step = Step(net, alpha, optimizer, TrainConfig(), CPU, group=group)
        generator = torch.Generator().manual_seed(group.rank)
        for _ in range(2):
            pixels = [
                torch.randint(0, 256, (4, 3, s, s), dtype=torch.uint8, generator=generator)
                for s in net.resolutions
            ]
            step(pixels, torch.arange(4), 0.01, 0.5, rows)
        return {name: value.numpy() for name, value in net.state_dict().items()}

    first, second = together(steps)
    assert [name for name in first if not (first[name] == second[name]).all()] == []
    assert "unused" not in capfd.readouterr().err


def test_counts_of_processes_add_up_to_those_of_the_whole_split():
    outputs, labels = torch.randn(8, 6), torch.arange(8) % 6
    whole, empty, *parts = (Accuracy() for _ in range(4))
    whole.add(outputs, labels)
    for part, some in zip(parts, (slice(0, 3), slice(3, 8)), strict=True):
        part.add(outputs[some], labels[some])
        empty.add_sums(part.sums())
    empty.add_sums(Accuracy().sums())
    assert empty.figures() == pytest.approx(whole.figures())
    assert torch.equal(empty.confusion, whole.confusion)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch": 33}, "batch: must be a multiple of the number of processes, 2"),
        ({"batch": 2}, "batch: 2 images of 2 processes leave one to each"),
        ({"accumulate": 9}, "a part of the 16 images of each process, so at most 8, got 9"),
    ],
)
def test_what_several_processes_cannot_do_is_said_in_one_line(changes, line):
    config = RunConfig()
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, **{"batch": 32} | changes)
    )
    with pytest.raises(ConfigError, match=line) as error:
        check_batch(config, ProcessGroup(0, 2))
    assert "\n" not in str(error.value)


def test_a_process_with_other_settings_or_data_is_named():
    def alike(group, **changes):
        config = RunConfig()
        train = dataclasses.replace(config.train, **(changes if group.rank else {}))
        source = open_source("shapes", train_images=24, val_images=12 + 12 * group.rank * other)
        try:
            check_alike(group, dataclasses.replace(config, train=train), source)
        except ConfigError as error:
            return str(error)

    other = 0
    assert together(alike) == [None, None]
    for line in together(lambda group: alike(group, lr=0.5)):
        assert line.startswith("process 1 has train.lr 0.5, process 0 has ")
        assert "\n" not in line
    other = 1
    for line in together(alike):
        assert line.startswith("process 1 has a data set ")
