"""Configurations: YAML round trip, precedence, and what is said about wrong keys."""

import dataclasses

import pytest

from rsquant import config as configs
from rsquant.config import RunConfig
from rsquant.errors import ConfigError
from rsquant.recipes import builtin_recipe, paper_recipe
from rsquant.train.configuration import compose


def test_a_configuration_survives_yaml(tmp_path):
    for config in (RunConfig(), builtin_recipe("resnet18", 2, 2), paper_recipe("resnet50", 2, 32)):
        path = tmp_path / "c.yaml"
        path.write_text(configs.dump_yaml(config))
        assert configs.load_yaml(path) == config


def test_patterns_keep_their_order_in_yaml(tmp_path):
    given = {"z*": "4/4", "a*": "/3", "m": "1/"}
    model = dataclasses.replace(RunConfig().model, layer_bits=given, layer_quantizer={"z*": "lsq"})
    path = tmp_path / "c.yaml"
    path.write_text(configs.dump_yaml(dataclasses.replace(RunConfig(), model=model)))
    again = configs.load_run(path).model
    assert list(again.layer_bits.items()) == list(given.items())
    assert again.layer_quantizer == {"z*": "lsq"}


def test_a_run_of_an_older_version_goes_on_as_it_began(tmp_path):
    path = tmp_path / "config.yaml"
    for arch, abits, block in (
        ("resnet18", 2, "preact-bare"),
        ("resnet18", 32, "auto"),
        ("torchvision:mobilenet_v2", 2, "auto"),
    ):
        path.write_text(f"model: {{arch: '{arch}', abits: {abits}}}\ntrain: {{epochs: 3}}\n")
        config = configs.load_run(path)
        assert config.model.block == block
        assert (config.train.decay, config.train.calibration) == ("all", 0)
    path.write_text(configs.dump_yaml(RunConfig()))
    assert configs.load_run(path) == RunConfig()


@pytest.mark.parametrize(
    "text,message",
    [
        ("train: {epoch: 3}", r"c.yaml: train: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("trian: {epochs: 3}", r"unknown key 'trian'; did you mean 'train'\?"),
        ("train: {zzz: 3}", "unknown key 'zzz'; valid: epochs, batch"),
        ("train: {epochs: three}", "train.epochs: must be int, got 'three'"),
        ("train: {amp: 1}", "train.amp: must be str, got 1"),
        ("model: {resolutions: 96}", "model.resolutions: must be"),
        ("model: {resolutions: [96, a]}", "model.resolutions: must be int, got 'a'"),
        ("model: {layer_bits: [a]}", "model.layer_bits: must map patterns to text"),
        ("model: {layer_bits: {a: 4}}", "model.layer_bits: a: must be str, got 4"),
        ("model: {layer_quantizer: {3: lq}}", "model.layer_quantizer: must map patterns"),
        ("train: 3", "section 'train' must hold keys, got 3"),
        ("[1, 2]", "must hold the sections model, data and train"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        compose(path, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text,message",
    [
        ("train: {lr: .nan}", "train.lr: must be above 0 and at most 1000, got nan"),
        ("train: {lr: nan}", "train.lr: must be above 0 and at most 1000, got nan"),
        ("train: {lr: 1e400}", "train.lr: must be above 0 and at most 1000, got inf"),
        ("train: {lr: 1.0e+400}", "train.lr: must be above 0 and at most 1000, got inf"),
        ("train: {lr: -0.1}", "train.lr: must be above 0"),
        ("train: {lr: 1e30}", "train.lr: must be above 0 and at most 1000, got 1e[+]30"),
        (f"train: {{lr: {10**400}}}", "train.lr: must be above 0 .* got a number of 1329 bits"),
        (f"train: {{epochs: {'9' * 5000}}}", "not valid YAML: Exceeds the limit"),
        ("train: {momentum: .nan}", "train.momentum: must be 0 or more and below 1, got nan"),
        ("train: {momentum: 1}", "train.momentum: must be 0 or more and below 1, got 1"),
        ("train: {weight_decay: .inf}", "train.weight_decay: must be 0 to 10, got inf"),
        ("train: {warmup: .inf}", "train.warmup: must be 0 to 100000, got inf"),
        ("train: {warmup: -1}", "train.warmup: must be 0 to 100000, got -1"),
        ("train: {batch: 1000000000000}", "train.batch: must be 2 to 65536"),
        ("train: {epochs: 1000000000000}", "train.epochs: must be 1 to 100000"),
        ("train: {threads: 0}", "train.threads: must be 1 to 1024, got 0"),
        ("train: {seed: -1}", "train.seed: must be 0 to"),
        ("data: {area: [.nan, 1]}", "data.area: must be above 0 and at most 1, got nan"),
        ("data: {workers: -1}", "data.workers: must be 0 to 256, got -1"),
        ("data: {val_images: 0}", "data.val_images: must be 1 to 100000000, got 0"),
        (
            "model: {resolutions: [96, 1000000]}",
            "model.resolutions: must be 1 to 4096, got 1000000",
        ),
        ("model: {width: 0}", "model.width: must be 1 to 2048, got 0"),
    ],
)
def test_numbers_outside_their_range_are_refused_by_key_and_range(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        compose(path, {})
    assert "\n" not in str(error.value)


def test_every_number_of_the_configuration_has_a_range():
    numbers = {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(RunConfig)
        for field in dataclasses.fields(section.default_factory)
        if "int" in field.type or "float" in field.type
    }
    assert numbers - {"model.wbits", "model.abits"} == set(configs.RANGES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file"):
        compose(tmp_path / "none.yaml", {})


def test_mixed_precision_of_older_files_is_read() -> None:
    for old, new in ((True, "bf16"), (False, "none")):
        assert configs.from_dict({"train": {"amp": old}}).train.amp == new
