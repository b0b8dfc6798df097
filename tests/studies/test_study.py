"""Study files: what they mean, and one line for what they cannot mean."""

import json
from pathlib import Path

import pytest

from rsquant.errors import ConfigError
from rsquant.studies.planned import planned_runs, selected
from rsquant.studies.study import read_study

CONFIGS = Path(__file__).parents[2] / "configs/studies"
RAW = {
    "title": "Test",
    "seeds": [0, 1],
    "config": {
        "model": {"arch": "resnet18", "wbits": 32, "abits": 32, "resolutions": [64, 48]},
        "train": {"epochs": 2},
    },
    "groups": {"float": {}, "2/2": {"model": {"wbits": 2, "abits": 2}}},
    "experiments": {
        "individual": {"each": "sizes", "model": {"individual": "EACH"}},
        "rsnet": {},
    },
    "tables": [
        {
            "figures": ["top1", "top5"],
            "baseline": "I-Nets",
            "columns": [
                {"title": "I-Nets", "of": "individual"},
                {"title": "I-64", "of": "individual", "value": 64},
                {"title": "RS-Net", "of": "rsnet", "published": {"float": ["70.0", None]}},
            ],
        }
    ],
}


def changed(**changes):
    return {**RAW, **changes}


def read(tmp_path, raw):
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps(raw))  # which is YAML too
    return read_study(path)


def test_runs_are_every_seed_group_experiment_and_value(tmp_path):
    planned = planned_runs(read(tmp_path, RAW), data="shapes")
    assert len(planned) == 2 * 2 * (2 + 1)
    first, second, third = planned[:3]
    assert first.label == "float / individual 64, seed 0"
    assert first.config.model.individual == 64 and second.config.model.individual == 48
    # I-64 is measured at every size, the one for 48 at its own, the RS-Net at those it trained.
    assert (first.sizes, second.sizes, third.sizes) == ((64, 48), (48,), (64, 48))
    assert [run.seed for run in planned[:6]] == [0] * 6
    # The published recipe of each network, float and low-bit, with the study's changes.
    assert (first.config.train.schedule, planned[3].config.train.schedule) == ("cosine", "step")
    assert {run.config.train.epochs for run in planned} == {2}
    assert len({run.name for run in planned}) == len(planned)
    assert len(selected(planned, ("rsnet",))) == 4


def test_names_follow_what_comes_out_not_where_it_is_made(tmp_path):
    settings = {**RAW["config"], "data": {"workers": 0}, "train": {"epochs": 2, "threads": 1}}
    usual = planned_runs(read(tmp_path, RAW), data="shapes")
    elsewhere = planned_runs(read(tmp_path, changed(config=settings)), data=str(tmp_path))
    longer = {**RAW["config"], "train": {"epochs": 3}}
    assert [run.name for run in usual] == [run.name for run in elsewhere]
    others = planned_runs(read(tmp_path, changed(config=longer)))
    assert not {run.name for run in usual} & {run.name for run in others}


def test_a_value_is_put_wherever_each_stands(tmp_path):
    experiments = {"paths": {"each": "sizes", "model": {"resolutions": ["EACH", "EACH"]}}}
    tables = [{"columns": [{"of": "paths"}]}]
    study = read(tmp_path, changed(experiments=experiments, tables=tables))
    assert [r.config.model.resolutions for r in planned_runs(study)[:2]] == [(64, 64), (48, 48)]


def test_weights_are_found_from_the_folder_of_the_study(tmp_path, monkeypatch):
    """Runs are made in the store; places in the file are from here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/base").mkdir(parents=True)
    (tmp_path / "runs/base/config.yaml").write_text("")
    (tmp_path / "net.safetensors").write_text("")
    found = {
        "net.safetensors": str(tmp_path / "net.safetensors"),
        "not/yet.pth": str(tmp_path / "not/yet.pth"),
        "base": str(tmp_path / "runs/base"),
        "in-the-store": "in-the-store",
        "torchvision:IMAGENET1K_V1": "torchvision:IMAGENET1K_V1",
        "pretrained": "pretrained",
    }
    for source, place in found.items():
        settings = {"train": {"init": source, "teacher": source}}
        raw = changed(experiments={**RAW["experiments"], "rsnet": settings})
        run = next(r for r in planned_runs(read(tmp_path, raw)) if r.experiment == "rsnet")
        assert (run.config.train.init, run.config.train.teacher) == (place, place)


COLUMN = RAW["tables"][0]["columns"][0]
BAD = {
    "unknown key 'sedes'; did you mean 'seeds'": changed(sedes=[0]),
    "experiments.rsnet: train: unknown key 'epoch'; did you mean": changed(
        experiments={**RAW["experiments"], "rsnet": {"train": {"epoch": 3}}}
    ),
    "experiments.rsnet: train.epochs: must be 1 to": changed(
        experiments={**RAW["experiments"], "rsnet": {"train": {"epochs": 0}}}
    ),
    "experiments.rsnet: unknown key 'training'": changed(
        experiments={**RAW["experiments"], "rsnet": {"training": {}}}
    ),
    "unknown experiment 'rsnets'; did you mean 'rsnet'": changed(
        tables=[{"columns": [{"of": "rsnets"}]}]
    ),
    "individual has no run for 56; it has 64, 48": changed(
        tables=[{"columns": [{**COLUMN, "value": 56}]}]
    ),
    "rsnet has no run for 64; it has one run for all": changed(
        tables=[{"columns": [{"of": "rsnet", "value": 64}]}]
    ),
    "baseline: no column 'I-Net'; did you mean 'I-Nets'": changed(
        tables=[{"columns": [COLUMN], "baseline": "I-Net"}]
    ),
    "figures: unknown figure 'top2'": changed(tables=[{"columns": [COLUMN], "figures": ["top2"]}]),
    "published: unknown group 'flaot'; did you mean 'float'": changed(
        tables=[{"columns": [{**COLUMN, "published": {"flaot": ["1", "2"]}}]}]
    ),
    "published: 1 figures for 2 rows": changed(
        tables=[{"columns": [{**COLUMN, "published": {"float": ["1"]}}]}]
    ),
    "row 'wide' is no size; say at which with `at`": changed(
        tables=[{"columns": [COLUMN], "rows": {"wide": "x1"}}]
    ),
    "plot: must be one of none, lines, gain": changed(
        tables=[{"columns": [COLUMN], "plot": "bars"}]
    ),
    "plot: gain needs a baseline": changed(tables=[{"columns": [COLUMN], "plot": "gain"}]),
    "two columns have the same title": changed(tables=[{"columns": [COLUMN, COLUMN]}]),
    "two tables are called": changed(tables=[{"name": "a", "columns": [COLUMN]}] * 2),
    "seeds: must be different whole numbers": changed(seeds=[0, 0]),
    "each: a value is there twice": changed(
        experiments={**RAW["experiments"], "rsnet": {"each": [1, 1]}}
    ),
    "tables: must be a list of one or more": changed(tables=[]),
    "experiments: must hold keys": changed(experiments=[]),
    "experiments: names must be letters": changed(experiments={"a/../b": {}}),
    "needs `of`, an experiment, or `published`": changed(tables=[{"columns": [{"title": "x"}]}]),
    "'x': widths: is of an experiment's runs": changed(
        tables=[{"columns": [{"title": "x", "published": ["1"], "widths": [1.0]}]}]
    ),
    "'x': value: is of an experiment's runs": changed(
        tables=[{"columns": [{"title": "x", "published": ["1"], "value": 64}]}]
    ),
    "'x': untrained: is of an experiment's runs": changed(
        tables=[{"columns": [{"title": "x", "published": ["1"], "untrained": True}]}]
    ),
    "'x': bits: is of an experiment's runs": changed(
        tables=[{"columns": [{"title": "x", "published": ["1"], "bits": "2/2"}]}]
    ),
    "experiments.rsnet: each: no setting is EACH": changed(
        experiments={**RAW["experiments"], "rsnet": {"each": "sizes", "train": {"epochs": 1}}}
    ),
    "config: train.seed: the study's seeds are of all runs": changed(
        config={**RAW["config"], "train": {"seed": 5}}
    ),
    "experiments.rsnet: train.seed: the study's seeds are of all runs": changed(
        experiments={**RAW["experiments"], "rsnet": {"train": {"seed": 5}}}
    ),
    "baseline: 'theirs' has published figures alone": changed(
        tables=[
            {
                "baseline": "theirs",
                "columns": [COLUMN, {"title": "theirs", "published": {"float": ["1", "2"]}}],
            }
        ]
    ),
    "rows: must hold keys": changed(tables=[{"columns": [COLUMN], "rows": {}}]),
    "groups.g: must hold keys, got 0": changed(groups={"g": 0}),
    "experiments.rsnet: must hold keys": changed(
        experiments={**RAW["experiments"], "rsnet": False}
    ),
    "config: must hold keys": changed(config=[]),
    "has 20,004 runs, more than 10,000": changed(seeds=list(range(3334))),
}


@pytest.mark.parametrize("line", BAD)
def test_what_cannot_be_meant_is_one_line(tmp_path, line):
    raw = BAD[line]
    with pytest.raises(ConfigError) as error:
        read(tmp_path, raw)
    text = str(error.value)
    assert "test.yaml" in text and "\n" not in text
    assert line in text


def test_experiments_to_train_are_named_as_they_are(tmp_path):
    with pytest.raises(ConfigError, match="unknown experiment 'rsnets'; did you mean 'rsnet'"):
        selected(planned_runs(read(tmp_path, RAW)), ("rsnets",))


def test_every_published_study_has_a_small_twin_and_both_can_be_read():
    files = {path.stem for path in CONFIGS.glob("*.yaml")}
    full = {name for name in files if not name.endswith("_small")}
    # Tables 2 and 3 are one small study.
    assert files - full == {f"{name}_small" for name in full - {"table3"}}
    small = []
    for name in sorted(files):
        study = read_study(CONFIGS / f"{name}.yaml")
        planned = planned_runs(study)
        assert f"configs/studies/{name}.yaml" in (CONFIGS / f"{name}.yaml").read_text()
        small += planned if name in files - full else []
    # Twins share runs: the float RS-Net is in six of them.

    assert len({run.name.rpartition("-")[2] for run in small}) < 0.75 * len(small)


@pytest.mark.parametrize("stem", ["runs", "configs", "locks"])
def test_a_file_is_not_called_as_a_folder_of_the_store(tmp_path, stem):
    path = tmp_path / f"{stem}.yaml"
    path.write_text("experiments: {a: {}}\ntables: []\n")
    with pytest.raises(ConfigError, match="the store of runs has a folder of this name"):
        read_study(path)
