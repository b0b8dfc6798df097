"""Configurations: YAML round trip, precedence, and what is said about wrong keys."""

import dataclasses
from pathlib import Path

import pytest

from rsquant import config as configs
from rsquant.config import RunConfig
from rsquant.errors import ConfigError
from rsquant.recipes import builtin_recipe, compose, paper_recipe

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


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


def test_the_papers_recipes():
    quantized, plain = paper_recipe("resnet50", 2, 2), paper_recipe("resnet50", 32, 32)
    mobile = paper_recipe("mobilenet_v2", 32, 32)
    assert (quantized.train.epochs, quantized.train.batch, quantized.train.lr) == (120, 256, 0.1)
    assert (quantized.train.schedule, plain.train.schedule) == ("step", "cosine")
    assert quantized.train.weight_decay == 1e-4
    assert (mobile.train.epochs, mobile.train.lr, mobile.train.weight_decay) == (150, 0.05, 4e-5)
    assert mobile == dataclasses.replace(
        paper_recipe("torchvision:mobilenet_v2", 32, 32), model=mobile.model
    )
    assert builtin_recipe("mobilenet_v2", 2, 2).model.width == 64
    for arch in ("mobilenet_v2", "torchvision:mnasnet1_0", "torchvision:efficientnet_b0"):
        low = paper_recipe(arch, 2, 2).train
        assert (low.lr, low.schedule, low.warmup, low.decay) == (0.05, "cosine", 5.0, "weights")
        assert builtin_recipe(arch, 2, 2).train.lr == 0.02
    assert quantized.model.resolutions == (224, 192, 160, 128, 96)


# RS-Nets (arXiv 2007.09558), section 4.1, and the published code of LQ-Nets and RS-Nets:
# epochs, batch, rate, schedule, momentum, Nesterov, weight decay, on what, area, crop, sizes.
PAPER = (224, 192, 160, 128, 96)
LQ = (120, 256, 0.1, "step", 0.9, True, 1e-4, "weights", (0.08, 1.0), "single", PAPER)
FLOAT = (120, 256, 0.1, "cosine", 0.9, False, 1e-4, "all", (0.08, 1.0), "single", PAPER)
MOBILE = (150, 256, 0.05, "cosine", 0.9, False, 4e-5, "all", (0.08, 1.0), "single", PAPER)
PUBLISHED = {
    "resnet18_float": ("resnet18", 32, 32, *FLOAT),
    "resnet50_float": ("resnet50", 32, 32, *FLOAT),
    "mobilenet_v2_float": ("mobilenet_v2", 32, 32, *MOBILE),
    "resnet18_w2a32": ("resnet18", 2, 32, *LQ),
    "resnet50_w2a32": ("resnet50", 2, 32, *LQ),
    "resnet18_w2a2": ("resnet18", 2, 2, *LQ),
    "resnet50_w2a2": ("resnet50", 2, 2, *LQ),
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_has_the_published_settings(path):
    config, _ = compose(path, {})
    model, data, train = config.model, config.data, config.train
    if path.stem not in PUBLISHED:
        # Ours, for small sets: quantized, so its optimizer is LQ-Nets'.
        assert path.stem.startswith("imagenette_")
        assert (train.nesterov, train.decay, train.momentum) == (True, "weights", 0.9)
        return
    got = (
        model.arch,
        model.wbits,
        model.abits,
        train.epochs,
        train.batch,
        train.lr,
        train.schedule,
        train.momentum,
        train.nesterov,
        train.weight_decay,
        train.decay,
        data.area,
        data.crop,
        model.resolutions,
    )
    assert got == PUBLISHED[path.stem]
    assert (model.width, model.block, model.grid, train.warmup) == (64, "auto", "none", 0.0)
    assert (train.distillation, train.basis_updates, data.flip) == ("full", "all", True)
    # The file says nothing that the command line's own recipe would not.
    alone = paper_recipe(model.arch, model.wbits, model.abits)
    assert alone.train == train
    assert alone.model == model


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


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_published_recipe_is_valid_and_says_what_it_is(path):
    compose(path, {})
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command:", "source:", "accuracy:"):
        assert any(word in line for line in header), word


def test_there_are_published_recipes():
    assert RECIPES


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {source: /photos}\ntrain: {epochs: 7, lr: 1}\n")
    config, _ = compose(path, {"train": {"epochs": 9}, "model": {"arch": "resnet18"}})
    assert config.train.epochs == 9
    assert config.train.lr == 1.0
    assert config.train.batch == paper_recipe("resnet18", 2, 2).train.batch


@pytest.mark.parametrize(
    "given,warmup",
    [
        ({"epochs": 6}, 0.2),
        ({"epochs": 1}, 1 / 30),
        ({"epochs": 300}, 10.0),
        ({}, 5.0),
        ({"epochs": 6, "warmup": 3.0}, 3.0),
        ({"epochs": 6, "warmup": 0.0}, 0.0),
    ],
)
def test_a_recipes_warm_up_keeps_its_share_of_the_epochs_unless_it_is_given(given, warmup):
    changes = {
        "model": {"arch": "torchvision:mnasnet1_0"},
        "data": {"source": "/photos"},
        "train": given,
    }
    config, _ = compose(None, changes)
    assert config.train.warmup == pytest.approx(warmup)
    assert config.train.warmup <= config.train.epochs


def test_without_a_data_source_the_small_recipe_is_used_and_named():
    config, lines = compose(None, {"model": {"arch": "resnet18"}})
    assert config == builtin_recipe("resnet18", 2, 2)
    assert "built-in generated set" in lines[0]
    assert compose(None, {"data": {"source": "/photos"}})[0].train.epochs == 120


@pytest.mark.parametrize(
    "text,message",
    [
        ("train: {epoch: 3}", r"c.yaml: train: unknown key 'epoch'; did you mean 'epochs'\?"),
        ("trian: {epochs: 3}", r"unknown key 'trian'; did you mean 'train'\?"),
        ("train: {zzz: 3}", "unknown key 'zzz'; valid: epochs, batch"),
        ("train: {epochs: three}", "train.epochs: must be int, got 'three'"),
        ("train: {amp: 1}", "train.amp: must be bool, got 1"),
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
