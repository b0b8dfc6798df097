"""The recipes: published settings, and that flags win over a file and a file over a recipe."""

import dataclasses
from pathlib import Path

import pytest

from rsquant.recipes import builtin_recipe, paper_recipe
from rsquant.train.configuration import compose

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


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
        assert path.stem.startswith(("imagenette_", "camvid_"))
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


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_published_recipe_is_valid_and_says_what_it_is(path):
    compose(path, {})
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command:", "source:", "accuracy:"):
        assert any(word in line for line in header), word


def test_there_are_published_recipes():
    assert RECIPES
