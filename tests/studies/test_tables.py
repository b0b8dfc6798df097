"""Cells, tables and pictures, from outcomes that are given."""

import csv
import json
import math
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from shallow import RESNET10

from rsquant.errors import ConfigError, RsquantError
from rsquant.evaluate.complexity import madds
from rsquant.made import LIST
from rsquant.models import create
from rsquant.studies import cells, estimate
from rsquant.studies.cells import blocks
from rsquant.studies.estimate import _of_a_step, _timed, timed_step
from rsquant.studies.outcome import EVALUATION, Mean, Outcome, mean, outcome
from rsquant.studies.output import check_tables, table_figures, write_tables
from rsquant.studies.picture import draw
from rsquant.studies.planned import planned_runs
from rsquant.studies.study import Column, Experiment, Study, Table, read_study

CONFIG = {"model": {"arch": "resnet18", "wbits": 32, "abits": 32, "resolutions": [64, 48]}}
COLUMNS = (
    Column("I-Nets", "individual"),
    Column("I-64", "individual", 64, untrained=True),
    Column("pair", "pair", published={"": ("70.0", "")}),
    Column("theirs", published={"": ("71.5", "60.2")}),
)
STUDY = Study(
    "test",
    "Test",
    CONFIG,
    (0, 1, 2),
    {"": {}},
    {
        "individual": Experiment({"model": {"individual": "EACH"}}, ("sizes",)),
        "pair": Experiment({"model": {"resolutions": [64, 32]}}),
    },
    (Table("test", "A | test", COLUMNS, None, None, ("top1", "top5"), "I-Nets", "gain"),),
)
PLANNED = planned_runs(STUDY)


def top1(run, size):
    """Figures that tell runs, sizes and seeds apart."""
    return 50 + size / 10 + 3 * run.seed**2 + (run.experiment == "pair") * (2 + run.seed)


def given(run):
    if run.experiment == "individual" and run.value == 48 and run.seed == 2:
        return None
    rows = {
        size: {"top1": top1(run, size), "top5": 90.0, "madds": size**2 * 1000} for size in run.sizes
    }
    return Outcome(rows, None)


@pytest.fixture(autouse=True)
def _parameters(monkeypatch):
    monkeypatch.setattr(cells, "parameters", lambda folder: 2**20)


def test_tables_replace_tables_alone(tmp_path):
    write_tables(STUDY, PLANNED, given, tmp_path)
    check_tables(STUDY, tmp_path)
    write_tables(STUDY, PLANNED, given, tmp_path)
    (tmp_path / "test.csv").write_text("mine")
    for writing in (check_tables, lambda *_: write_tables(STUDY, PLANNED, given, tmp_path)):
        with pytest.raises(RsquantError, match=r"test\.csv: is not as rsquant made it"):
            writing(STUDY, tmp_path)
    assert (tmp_path / "test.csv").read_text() == "mine"


def test_means_have_standard_errors():
    values = [1.0, 4.0, 2.5, 7.0]
    found = mean(values)
    assert found.value == statistics.mean(values)
    assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(4), rel=1e-15)
    assert mean([3.0]) == Mean(3.0, None, 1)
    assert mean([]) is None


def test_cells_are_means_and_gains_of_equal_seeds():
    (block,) = blocks(STUDY, STUDY.tables[0], PLANNED, given)
    first, second = block.rows
    seeds = [50 + 6.4 + 3 * s**2 for s in (0, 1, 2)]
    assert first.cells[0].means[0] == mean(seeds)
    assert first.cells[1].means == first.cells[0].means and first.madds == 64**2 * 1000
    assert first.cells[1].gain == Mean(0.0, 0.0, 3)
    # Of the same seeds, so that what a seed does to both does not count.
    assert first.cells[2].gain.value == pytest.approx(3.0)
    assert first.cells[2].gain.error == pytest.approx(1 / math.sqrt(3))
    assert first.cells[0].gain is None
    # One seed of the network for 48 is missing; the one for 64 is there at 48 too.
    assert second.cells[0].means[0].count == 2
    assert second.cells[0].missing == ("individual 48, seed 2",)
    assert second.cells[1].gain.count == 2 and not second.cells[1].missing
    # The pair was not trained at 48; published figures have no mean.
    assert second.cells[2].blank and second.cells[2].published == ""
    assert second.cells[3].published == "60.2"
    # Two individual networks; one is missing with another seed only.
    assert block.parameters == (2 * 2**20, 2**20, 2**20, None)


def test_tables_are_written_as_markdown_csv_json_and_png(tmp_path):
    text, missing = write_tables(STUDY, PLANNED, given, tmp_path)
    assert missing == ["individual 48, seed 2"]
    assert text == (tmp_path / "test.md").read_text()
    lines = text.splitlines()
    assert lines[2] == "| size | MAdds | I-Nets | I-64 | pair | theirs |"
    assert "61.4 ± 3.6 / 90.0 ± 0.0" in lines[4]
    assert "(+3.0 ± 0.6)<br>*70.0*" in lines[4] and lines[4].endswith("| *71.5* |")
    assert "± 1.5 / 90.0 ± 0.0 ? |" in lines[5]
    assert lines[6] == "| parameters |  | 2.00 M | 1.00 M | 1.00 M |  |"
    with (tmp_path / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    whole = json.loads((tmp_path / "test.json").read_text())
    assert len(rows) == len(whole["rows"]) and whole["machine"]["rsquant"]
    (pair,) = [r for r in whole["rows"] if r["column"] == "pair" and r["figure"] == "top1"]
    assert (pair["row"], pair["seeds"], pair["gain"]) == ("64", 3, 3.0)
    with Image.open(tmp_path / "test.png") as picture:
        assert picture.width > 300
        colours = picture.convert("RGB").getcolors(2**20)
    assert len(colours) > 10
    assert [path.name for path in tmp_path.glob(".*")] == [LIST]


def test_figures_have_their_own_decimals_and_units(tmp_path):
    table = replace(STUDY.tables[0], figures=("loss", "top1"))
    study = replace(STUDY, tables=(table,))

    def losses(run):
        rows = {size: {"loss": 1.23456 + run.seed, "top1": 60.0, "madds": 1} for size in run.sizes}
        return Outcome(rows, None)

    text, _ = write_tables(study, PLANNED, losses, tmp_path)
    assert "2.2346 ± 0.5774 / 60.0 ± 0.0 (+0.0000 ± 0.0000)" in text
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda self, *a, **k: drawn.append(self))
        (cell,) = blocks(study, table, PLANNED, losses)
        draw(table, [cell], table_figures(study, table)[0], tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert axes.get_ylabel() == "loss, over I-Nets"
    assert axes.get_xticklabels()[0].get_text() == "64\n(2.2346)"


def test_a_study_without_runs_has_a_table_of_questions(tmp_path):
    lines_plot = replace(STUDY, tables=(replace(STUDY.tables[0], plot="lines"),))
    text, missing = write_tables(lines_plot, PLANNED, lambda run: None, tmp_path)
    assert len(missing) == len(PLANNED)
    assert "| 64 | ? | ? | ?<br>*70.0* | *71.5* |" in text
    assert (tmp_path / "test.png").is_file()


def test_an_error_leaves_older_tables(tmp_path):
    (tmp_path / "test.md").write_text("before")

    def fails(run):
        raise KeyError

    with pytest.raises(KeyError):
        write_tables(STUDY, PLANNED, fails, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["test.md"]
    assert (tmp_path / "test.md").read_text() == "before"


def of_widths(widths):
    column = Column("ours", "slimmable", widths=widths)
    table = Table("w", "W", (column,), (("1x", "whole"), ("half", "narrow")), 64)
    experiment = Experiment({"model": {"individual": 64, "widths": [1.0, 0.5], "bits": ["4/4"]}})
    return Study("wide", "Wide", CONFIG, (0,), {"": {}}, {"slimmable": experiment}, (table,))


def test_a_column_of_widths_has_one_network_in_every_row(tmp_path):
    study = of_widths((1.0, 0.5))
    (run,) = planned_runs(study)
    rows = [
        {"resolution": 64, "width": width, "bits": bits, "top1": top, "madds": int(1000 * width)}
        for width, bits, top in ((1.0, "4/4", 70.0), (1.0, "2/2", 60.0), (0.5, "4/4", 50.0))
    ]
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / EVALUATION).write_text(json.dumps({"rows": rows}))
    found = outcome(run, tmp_path)
    assert found.row(64)["top1"] == 70.0 and found.row(64, 0.5)["top1"] == 50.0
    assert found.row(64, 0.25) is None and found.row(32, 0.5) is None
    (block,) = blocks(study, study.tables[0], [run], lambda run: found)
    assert [row.cells[0].means[0].value for row in block.rows] == [70.0, 50.0]
    assert [row.madds for row in block.rows] == [1000, 500]
    assert block.bits == "W4A4"
    # Gains over a column of widths: each row's own.
    (table,) = study.tables
    both = (Column("all", "slimmable"), *table.columns)
    table = replace(table, columns=both, baseline="ours")
    (block,) = blocks(study, table, [run], lambda run: found)
    assert [row.cells[0].gain.value for row in block.rows] == [0.0, 20.0]


def test_a_column_of_bits_has_those_of_several(tmp_path):
    columns = tuple(Column(bits or "most", "bits", bits=bits) for bits in ("4/4", "2/2", None))
    table = Table("b", "B", columns, (("64", 64), ("32", 32)))
    experiment = Experiment({"model": {"resolutions": [64, 32], "bits": ["4/4", "2/2"]}})
    study = Study("b", "B", CONFIG, (0,), {"": {}}, {"bits": experiment}, (table,))
    (run,) = planned_runs(study)
    rows = [
        {"resolution": size, "bits": bits, "top1": float(size + add), "madds": size}
        for size in (64, 32)
        for bits, add in (("4/4", 4), ("2/2", 2))
    ]
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / EVALUATION).write_text(json.dumps({"rows": rows}))
    found = outcome(run, tmp_path)
    (block,) = blocks(study, study.tables[0], [run], lambda run: found)
    means = [[cell.means[0].value for cell in row.cells] for row in block.rows]
    assert means == [[68.0, 66.0, 68.0], [36.0, 34.0, 36.0]]
    # Gains are over the baseline at its own bits, not at the most.
    (block,) = blocks(study, replace(table, baseline="2/2"), [run], lambda run: found)
    for row in block.rows:
        gains = [cell.gain and cell.gain.value for cell in row.cells]
        assert gains == [2.0, None, 2.0]


@pytest.mark.parametrize(
    ("settings", "bits", "message"),
    [
        ({"bits": ["4/4", "2/2"]}, "3/3", "bits: several has no bits 3/3; it has 4/4, 2/2"),
        ({}, "2/2", "bits: several has no bits 2/2; it has one pair of bits alone"),
        ({"bits": ["4/4", "2/2"]}, 22, "bits: must be text"),
    ],
)
def test_bits_that_a_column_cannot_have_are_refused(tmp_path, settings, bits, message):
    raw = {
        "config": CONFIG,
        "experiments": {"several": {"model": settings}},
        "tables": [{"columns": [{"of": "several", "bits": bits}]}],
    }
    (tmp_path / "bits.yaml").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=message):
        read_study(tmp_path / "bits.yaml")


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1.0], "widths: 1 widths for 2 rows"),
        ([1.0, 0.25], "widths: slimmable has no width 0.25; it has 1, 0.5"),
        ([1.0, 2.0], "widths: must be above 0 to 1"),
        ("1, 0.5", "widths: must be a list"),
    ],
)
def test_widths_that_a_column_cannot_have_are_refused(tmp_path, widths, message):
    raw = {
        "config": CONFIG,
        "experiments": {"slimmable": {"model": {"individual": 64, "widths": [1.0, 0.5]}}},
        "tables": [
            {
                "at": 64,
                "rows": {"1x": "whole", "half": "narrow"},
                "columns": [{"of": "slimmable", "widths": widths}],
            }
        ],
    }
    (tmp_path / "wide.yaml").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=message):
        read_study(tmp_path / "wide.yaml")


def test_a_step_of_several_settings_costs_the_ends_and_two_others():
    given = {"resolutions": (64, 32), "width": 8, "num_classes": 5}
    network = create("resnet18", widths=(1.0, 0.5), bits=("4/4", "2/2"), **given)
    costs = [madds(network, one.size, one.variant) for one in network.settings]
    expected = costs[0] + costs[-1] + 2 * sum(costs[1:-1]) / 6
    assert _of_a_step(network, (64, 32)) == pytest.approx(expected)
    plain = create("resnet18", **given)
    assert _of_a_step(plain, (64, 32)) == madds(plain, 64) + madds(plain, 32)
    assert _of_a_step(plain, (32,)) == madds(plain, 32)


@pytest.mark.parametrize(
    "share,size,count",
    # Of the larger size's cost: two images of it fit, not of it but of the smaller one, of none.
    [(100.0, 64, 8), (5.5, 64, 5), (2.0, 64, 2), (1.9, 32, 7), (0.01, 32, 2)],
)
def test_a_timed_step_has_few_multiply_adds_whatever_the_network(share, size, count, monkeypatch):
    network = create("resnet18", resolutions=(64, 32), width=8, num_classes=5)
    assert madds(network, 64) == pytest.approx(4 * madds(network, 32), rel=0.02)
    monkeypatch.setattr(estimate, "TIMED_MADDS", share * madds(network, 64))
    assert timed_step(network) == (size, count)


@pytest.mark.parametrize("arch", [RESNET10, f"refinenet_lw_bn_{RESNET10}"])
def test_steps_are_timed_in_training_with_their_backward_pass(arch, monkeypatch):
    task = "segmentation" if "refinenet" in arch else "classification"
    network = create(arch, resolutions=(64, 32), width=4, num_classes=5, task=task).eval()
    clock = iter((10.0, 13.0, 20.0, 22.0))  # steps of 3 and 2 seconds
    monkeypatch.setattr(estimate, "time", SimpleNamespace(process_time=lambda: next(clock)))
    given = []
    network.register_forward_pre_hook(
        lambda module, args: given.append((module.training, tuple(args[0].shape)))
    )
    threads = torch.get_num_threads()
    assert _timed(network, 32, 3) == 2.0 / (3 * madds(network, 32))
    assert given == [(True, (3, 3, 32, 32))] * 2 and torch.get_num_threads() == threads
    weights = [p for name, p in network.named_parameters() if p.dim() == 4]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)
