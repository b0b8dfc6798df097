"""The picture of `rsquant eval --confusion`."""

import pytest

from rsquant.errors import ConfigError
from rsquant.evaluate.report import Report, check_details
from rsquant.report.confusion import draw_confusion
from rsquant.tasks import by_name
from rsquant.tasks.classification import MOST_CONFUSED


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, whose files are empty."""
    figures = []

    def kept(figure, path, **given):
        figures.append(figure)
        path.touch()

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", kept)
    return figures


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()][:-1]


def test_of_segmentation_it_has_its_own_figure_and_pixels(tmp_path, drawn):
    rows = [{"resolution": 64, "miou": 41.26, "confusion": [[5, 1], [2, 7]]}]
    draw_confusion(tmp_path / "a.png", Report(by_name("segmentation"), rows, ("sky", "road")))
    assert titles(drawn[0]) == ["64 pixels\nmean IoU 41.3 %"]
    assert drawn[0].axes[-1].get_ylabel() == "% of the pixels of a class"


def test_each_width_and_pair_of_bits_has_a_title(tmp_path, drawn):
    settings = [(1.0, "4/4"), (1.0, "2/2"), (0.5, "2/2")]
    rows = [
        {"resolution": 64, "width": w, "bits": b, "top1": 50.0, "confusion": [[1, 0], [0, 1]]}
        for w, b in settings
    ]
    draw_confusion(tmp_path / "a.png", Report(by_name("classification"), rows, ("a", "b")))
    assert titles(drawn[0]) == [
        f"64 pixels, width {w:g}, bits {b}\ntop-1 50.0 %" for w, b in settings
    ]
    assert drawn[0].axes[-1].get_ylabel() == "% of the images of a class"


class Source:
    """Of so many classes."""

    name = "set"

    def __init__(self, count):
        self.classes = ("x",) * count


def test_details_that_a_task_does_not_have_are_refused_before_the_work(monkeypatch):
    task = by_name("classification")
    check_details(task, Source(MOST_CONFUSED), ["by_class", "confusion"])
    with pytest.raises(ConfigError, match="confusion: is of at most 2048 classes, set has 2049"):
        check_details(task, Source(MOST_CONFUSED + 1), ["confusion"])
    monkeypatch.setattr(type(task), "class_figure", None)
    with pytest.raises(ConfigError, match="by_class: this task has no figure of each class"):
        check_details(task, Source(2), ["by_class"])
