"""levels.csv: what it holds, what a resumed run keeps of it, and that no damage stops a run."""

import shallow  # noqa: F401  (ResNet-10)
import torch

from rsquant import create, runs
from rsquant.nn.quantized import QUANTIZED_LAYERS
from rsquant.quantizers import ActivationQuantizer
from rsquant.report.sections import moved
from rsquant.train.level_record import LevelRow, level_rows, read_levels, record_levels


def network(**form):
    torch.manual_seed(0)
    return create("resnet10", resolutions=(48, 32), num_classes=4, width=4, **form)


def test_levels_are_those_of_every_quantizer():
    net = network(wbits=2, abits=3)
    rows = {(r.side, r.name): r.levels for r in level_rows(net, 1)}
    layers = {n: m for n, m in net.body.named_modules() if isinstance(m, QUANTIZED_LAYERS)}
    inputs = {n: m for n, m in net.body.named_modules() if isinstance(m, ActivationQuantizer)}
    assert set(rows) == {("weights", n) for n in layers} | {("activations", n) for n in inputs}
    for name, quantizer in inputs.items():
        assert list(rows["activations", name]) == quantizer.levels().double().tolist()
    name, layer = next(iter(layers.items()))
    channels = [
        [float(v) / float(w.double().square().mean().sqrt()) for v in levels]
        for w, levels in zip(layer.weight.detach(), layer.weight_quantizer.levels(), strict=True)
    ]
    for k, level in enumerate(rows["weights", name]):
        column = sorted(channel[k] for channel in channels)
        # torch's median is the lower of the two in the middle.
        assert abs(level - column[(len(column) - 1) // 2]) < 1e-5


def test_an_epoch_replaces_itself_and_what_came_after(tmp_path):
    net = network()
    for epoch in (1, 2, 3, 2):
        record_levels(tmp_path, net, epoch)
    rows = read_levels(tmp_path)
    assert sorted({r.epoch for r in rows}) == [1, 2]
    assert len(rows) == 2 * len(list(level_rows(net, 1)))


def test_a_float_network_has_no_record(tmp_path):
    record_levels(tmp_path, network(wbits=32, abits=32), 1)
    assert read_levels(tmp_path) == [] and not (tmp_path / runs.LEVELS).exists()


def test_damage_costs_its_rows_and_nothing_else(tmp_path):
    good = "1,weights,a,-1 0 1"
    lines = [
        "epoch,side,name,levels",
        good,
        "x,weights,a,1 2",
        "2,other,a,1 2",
        "2,weights,a,nan 1",
    ]
    path = tmp_path / runs.LEVELS
    path.write_text("\n".join([*lines, "3,weights,a", "4,weights,a,1 x", good]))
    expected = LevelRow(1, "weights", "a", (-1.0, 0.0, 1.0))
    assert read_levels(tmp_path) == [expected, expected]
    for damage in (b"", b"\xff\xfe", b"other,names\n", b'epoch,side,name,levels\n"1'):
        path.write_bytes(damage)
        assert read_levels(tmp_path) == []
        record_levels(tmp_path, network(), 1)
        assert read_levels(tmp_path)


def test_courses_show_what_moved():
    rows = [
        LevelRow(e, "activations", n, (0.0, s * e))
        for e in (1, 2)
        for n, s in zip("abc", (1, 2, 0), strict=True)
    ]
    found = moved.paths(rows, "activations")
    assert [(c.name, c.epochs) for c in found] == [("a", [1, 2]), ("b", [1, 2]), ("c", [1, 2])]
    assert [c.distance for c in found] == [0.5, 0.5, 0.0]
    many = [moved.Course(str(i), [1, 2], [(0.0, 1.0), (0.0, 1.0 + i % 7)]) for i in range(20)]
    assert [c.name for c in moved.shown(many, 4)] == ["0", "6", "13", "19"]
    assert moved.section("r", rows[:3]) is None
    section = moved.section("r", rows)
    assert [p.name for p in section.pictures] == ["moved-activations"]
