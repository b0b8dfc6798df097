"""What a recipe, a file and flags mean together: who wins, and what has no effect then."""

from pathlib import Path

import pytest

from rsquant.config import RunConfig, dump_yaml, from_dict, read_settings
from rsquant.errors import ConfigError
from rsquant.recipes import builtin_recipe, paper_recipe
from rsquant.studies.planned import planned_runs
from rsquant.studies.study import configured, read_study
from rsquant.train.check import check
from rsquant.train.configuration import compose
from rsquant.train.effects import check_effects, idle_settings

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGENETTE = CONFIGS / "imagenette_resnet18_w2a2.yaml"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


def file(folder, text):
    path = folder / "c.yaml"
    path.write_text(text)
    return path


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


def test_adam_has_a_hundredth_of_a_recipes_rate_and_no_nesterov_unless_given():
    changes = ({}, {"optimizer": "adam"}, {"optimizer": "adamw", "lr": 0.5})
    found = [compose(None, {"train": train})[0].train for train in changes]
    assert [(t.lr, t.nesterov) for t in found] == [(0.1, True), (0.001, False), (0.5, False)]


@pytest.mark.parametrize(
    "changes,settings,told",
    [
        (
            {"train": {"optimizer": "adam"}},
            {"train": {"nesterov": False, "lr": 0.001}},
            [
                "train.nesterov true: is of SGD, and the `optimizer` is adam",
                f"lr 0.001: {IMAGENETTE} has 0.1, which is for sgd",
            ],
        ),
        (
            {"train": {"optimizer": "adamw", "lr": 0.02}},
            {"train": {"nesterov": False, "lr": 0.02}},
            ["train.nesterov true: is of SGD, and the `optimizer` is adamw"],
        ),
        (
            {"train": {"momentum": 0.0}},
            {"train": {"nesterov": False}},
            ["train.nesterov true: is a kind of momentum, and the `momentum` is 0"],
        ),
        (
            {"model": {"arch": "mobilenet_v2"}},
            {"model": {"width": 64}},
            ["model.width 24: mobilenet_v2 is a network as it is, its width part of the name"],
        ),
        ({"model": {"wbits": 32, "abits": 32}}, {"train": {"nesterov": True}}, []),
        ({"train": {"weight_decay": 0.0}}, {"train": {"decay": "weights"}}, []),
    ],
)
def test_what_a_flag_leaves_without_effect_in_a_file_is_left_out_and_told(changes, settings, told):
    config, lines = compose(IMAGENETTE, changes)
    for section, values in settings.items():
        for name, value in values.items():
            assert getattr(getattr(config, section), name) == value
    said = [line for line in lines if "left out" in line or line.strip().startswith("lr ")]
    assert [line.strip().removeprefix(f"left out of {IMAGENETTE}: ") for line in said] == told
    check(config)
    check_effects(config)


def test_a_flag_for_a_float_network_leaves_out_what_a_file_says_of_levels(tmp_path):
    path = file(tmp_path, "{model: {quantizer: lsq}, train: {basis_updates: largest}}")
    config, lines = compose(path, {"model": {"wbits": 32, "abits": 32}})
    assert (config.model.quantizer, config.train.basis_updates) == ("lq", "all")
    assert sum("left out of" in line for line in lines) == 2


def test_a_file_for_adam_is_one_for_sgd_too(tmp_path):
    text = "train: {optimizer: adam, lr: 0.002, betas: [0.8, 0.9]}\n"
    config, lines = compose(file(tmp_path, text), {"train": {"optimizer": "sgd"}})
    assert (config.train.lr, config.train.betas) == (0.2, (0.9, 0.999))
    assert sum("left out of" in line for line in lines) == 1


# Given beside it, why it is without effect. In a file and as a flag.
WITHOUT_EFFECT = [
    ("train: {betas: [0.8, 0.9]}", "train.betas: is of Adam and AdamW, .*is sgd; leave it out"),
    ("train: {optimizer: adam, momentum: 0.5}", "train.momentum: is of SGD, .* is adam"),
    ("train: {optimizer: adamw, nesterov: true}", "train.nesterov: is of SGD, .* is adamw"),
    ("train: {weight_decay: 0.0, decay: all}", "train.decay: says what decays, .* is 0"),
    ("train: {teacher_at: largest}", "train.teacher_at: is of a `teacher`, and there is none"),
    ("train: {teacher_arch: resnet18}", "train.teacher_arch: is of a `teacher`"),
    ("train: {labels: 0.5}", "train.labels: is of a `teacher`"),
    (
        "{model: {individual: 64}, train: {teacher: t, teacher_at: largest}}",
        "train.teacher_at: the network has one size",
    ),
    (
        "train: {teacher: t, labels: 0.0, label_smoothing: 0.1}",
        "train.label_smoothing: is of the labels' loss, whose weight `labels` is 0",
    ),
    ("train: {teacher: t, labels: 0.0, class_weights: balanced}", "train.class_weights: is of the"),
    ("{model: {abits: 32}, train: {basis_updates: largest}}", "train.basis_updates: is of low-bit"),
    (
        "{model: {individual: 64}, train: {basis_updates: largest}}",
        "train.basis_updates: each basis is moved at one size alone",
    ),
    ("{model: {abits: 32}, train: {calibration: 8}}", "train.calibration: is of low-bit activ"),
    (
        "{model: {resolutions: [64]}, train: {distillation: none}}",
        "train.distillation: is between several sizes, and this network has one",
    ),
    ("{model: {resolutions: [64]}, train: {norms: shared}}", "train.norms: is between several"),
    ('train: {bits_schedule: "2"}', "train.bits_schedule: has one phase; give more"),
    ("model: {wbits: 32, abits: 32, grid: fine}", "model.grid: is of low-bit layers"),
    ("model: {wbits: 32, abits: 32, quantizer: lsq}", "model.quantizer: is of low-bit layers"),
    (
        'model: {wbits: 32, abits: 32, layer_quantizer: {"layer4.*": lsq}}',
        "model.layer_quantizer: is of low-bit layers",
    ),
    ("model: {wbits: 32, weight_norm: std}", "model.weight_norm: normalises low-bit weights"),
    ('model: {wbits: 4, bits: ["4/4", "2/2"]}', "model.wbits: the first of the `bits` says it"),
    ("model: {arch: mobilenet_v2, width: 24}", "model.width: mobilenet_v2 is a network as it is"),
    (
        "model: {arch: refinenet_resnet18, task: segmentation, stem: tiny}",
        "model.stem: refinenet_resnet18 has its own stem and block",
    ),
    (
        "{model: {task: segmentation}, data: {crop: multi}}",
        "data.crop: all sizes show one crop, as the task 'segmentation' needs it",
    ),
    (
        "{model: {individual: 64}, data: {crop: multi}}",
        "data.crop: says how sizes share crops, and this network has one size",
    ),
    (
        "model: {resolutions: [64], individual: 64}",
        "model.individual: the `resolutions` are this size alone",
    ),
    (
        "train: {epochs: 5, patience: 4}",
        "train.patience: ends training after 5 epochs or more, and there are",
    ),
    (
        'train: {epochs: 9, bits_schedule: "4:5,2", patience: 3}',
        "train.patience: ends training after 4 epochs or more, and there are",
    ),
]


@pytest.mark.parametrize("text,message", WITHOUT_EFFECT, ids=[m for _, m in WITHOUT_EFFECT])
def test_a_setting_without_effect_is_refused_where_it_is_given(tmp_path, text, message):
    path = file(tmp_path, text)
    with pytest.raises(ConfigError, match=rf"c\.yaml: {message}"):
        compose(path, {})
    with pytest.raises(ConfigError, match=rf"c\.yaml: {message}"):
        compose(path, {"train": {"epochs": 3}})
    given = read_settings(path)
    with pytest.raises(ConfigError, match=f"settings: {message}"):
        compose(None, given)
    made = from_dict(given, base=RunConfig())
    with pytest.raises(ConfigError, match=message.partition(".")[2]):
        check_effects(made)


def test_a_flag_without_effect_is_refused_also_as_its_default():
    for changes in ({"train": {"teacher_at": "every"}}, {"train": {"betas": (0.9, 0.999)}}):
        with pytest.raises(ConfigError, match="settings: train"):
            compose(None, changes)


def test_a_patience_is_measured_against_the_epochs_of_the_recipe():
    epochs = builtin_recipe("resnet18", 2, 2).train.epochs
    given = {"model": {"arch": "resnet18"}, "train": {"patience": epochs - 2}}
    assert compose(None, given)[0].train.patience == epochs - 2
    given["train"]["patience"] += 1
    with pytest.raises(ConfigError, match=f"there are {epochs}; give less, or leave it out"):
        compose(None, given)


def test_fewer_epochs_than_a_files_leave_out_its_patience(tmp_path):
    config, lines = compose(
        file(tmp_path, "train: {epochs: 20, patience: 9}"), {"train": {"epochs": 5}}
    )
    assert config.train.patience is None and any("train.patience 9" in line for line in lines)


def test_a_file_of_all_settings_may_have_those_without_effect_at_their_defaults(tmp_path):
    config, _ = compose(None, {"model": {"arch": "resnet18", "wbits": 32, "abits": 32}})
    idle = idle_settings(config)
    assert {"train.betas", "train.teacher_at", "train.calibration", "model.grid"} <= idle.keys()
    again, lines = compose(file(tmp_path, dump_yaml(config)), {})
    assert again == config and not any("left out" in line for line in lines)


def test_the_recipe_is_that_of_several_bits(tmp_path):
    path = file(tmp_path, "{model: {arch: resnet18, wbits: 32, abits: 32}, data: {source: /p}}")
    config, lines = compose(path, {"model": {"bits": ("4/4", "2/2")}})
    assert config.train == paper_recipe("resnet18", 4, 4).train
    assert sum("the first of the `bits` says it" in line for line in lines) == 2


@pytest.mark.parametrize("path", [*sorted(CONFIGS.glob("*.yaml")), *STUDIES], ids=lambda p: p.stem)
def test_published_files_have_no_setting_without_effect(path):
    if path in STUDIES:
        configs = [run.config for run in planned_runs(read_study(path), seeds=(0,))]
    else:
        configs = [compose(path, {})[0]]
    for config in configs:
        check_effects(config)


def test_a_study_leaves_out_what_an_experiment_leaves_without_effect():
    study = {"model": {"arch": "resnet18"}, "train": {"nesterov": True, "basis_updates": "largest"}}
    adam = configured(study, {}, {"train": {"optimizer": "adam"}}, where="s")
    assert (adam.train.nesterov, adam.train.lr) == (False, 0.001)
    plain = configured(study, {"model": {"wbits": 32, "abits": 32}}, {}, where="s")
    assert plain.train.basis_updates == "all" and plain.train.nesterov
    with pytest.raises(ConfigError, match=r"s: train\.betas: is of Adam"):
        configured(study, {}, {"train": {"betas": [0.8, 0.9]}}, where="s")
