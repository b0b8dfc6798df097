"""The names the command line lists without torch are those that the library has."""

import pytest

from rsquant import choices, tasks
from rsquant.choices import listed


def test_names_are_those_of_the_tables_they_stand_for():
    from rsquant.export import forms
    from rsquant.models import resnet, stem
    from rsquant.models.mobilenet_v2 import NAME
    from rsquant.quantizers import grid

    networks = [name for name in resnet.LAYERS if name in choices.ARCHITECTURES]
    assert (*networks, NAME) == choices.ARCHITECTURES
    assert stem.STEMS == choices.STEMS
    assert tuple(grid.GRIDS) == choices.GRIDS
    packs = {name for name, limits in grid.GRIDS.items() if limits[0] is not None}
    assert packs == set(choices.PACKED_GRIDS)
    assert (forms.AUTO, *forms.FORMS) == choices.FORMS


def test_every_quantizer_of_the_package_is_a_choice():
    from rsquant import quantizers

    own = [n for n in quantizers.names() if quantizers.kind(n).weights.__module__[:8] == "rsquant."]
    assert tuple(own) == choices.QUANTIZERS
    assert set(choices.TASKS) <= set(tasks.names())


def test_every_name_of_training_is_taken():
    import dataclasses

    from rsquant.config import DataConfig, RunConfig, TrainConfig
    from rsquant.train.check import check

    settings = [
        *(DataConfig(crop=name) for name in choices.CROPS),
        *(TrainConfig(decay=name) for name in choices.DECAYS),
        *(TrainConfig(norms=name) for name in choices.NORMS),
        *(TrainConfig(schedule=name) for name in choices.SCHEDULES),
        *(TrainConfig(distillation=name) for name in choices.DISTILLATIONS),
        *(TrainConfig(basis_updates=name) for name in choices.BASIS_UPDATES),
    ]
    for section in settings:
        name = "data" if isinstance(section, DataConfig) else "train"
        check(dataclasses.replace(RunConfig(), **{name: section}))


@pytest.mark.parametrize(
    "names,text", [(("a",), "a"), (("a", "b"), "a or b"), ("abc", "a, b or c")]
)
def test_names_in_a_sentence(names, text):
    assert listed(tuple(names)) == text
