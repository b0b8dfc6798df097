"""Tasks by name, and what a task may call things."""

import pytest

from rsquant import tasks
from rsquant.errors import ConfigError
from rsquant.tasks import Classification, Figure


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(tasks.registry, "_TASKS", dict(tasks.registry._TASKS))


def test_a_task_is_found_by_its_name():
    assert tasks.names() == ("classification", "segmentation")
    assert isinstance(tasks.by_name(tasks.DEFAULT), Classification)
    mine = Classification()
    tasks.register("mine", mine)
    assert tasks.by_name("mine") is mine and tasks.names()[-1] == "mine"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "x:y"])
def test_a_name_that_cannot_be_typed_is_refused(name):
    with pytest.raises(ConfigError, match="task: a name has letters"):
        tasks.register(name, Classification())


def test_a_class_is_no_task():
    with pytest.raises(ConfigError, match="task mine: must be an object of a subclass of Task"):
        tasks.register("mine", Classification)


@pytest.mark.parametrize(
    "figures,loss_name,message",
    [
        (("top1",), "task", "one of them 'loss' and not the first, got top1"),
        (("loss", "top1"), "task", "not the first, got loss, top1"),
        ((), "task", "got none"),
        (("a", "a", "loss"), "task", "different names"),
        (("mean IoU", "loss"), "task", "names of columns have letters, digits and _"),
        (("a", "loss"), "ensemble", "loss_name is none of loss, ensemble, distillation"),
        (("a", "loss"), "", "names of columns"),
    ],
)
def test_columns_that_cannot_be_written_or_told_apart_are_refused(figures, loss_name, message):
    task = Classification()
    task.figures = tuple(Figure(name, name) for name in figures)
    task.loss_name = loss_name
    with pytest.raises(ConfigError, match=message):
        tasks.register("mine", task)


def test_a_figure_is_shown_with_its_unit_and_decimals():
    assert Figure("top1", "top-1", "%").heading == "top-1 %"
    assert Figure("loss", "loss", decimals=4).heading == "loss"
    assert Figure("loss", "loss", decimals=4).show(1.23456) == "1.2346"
