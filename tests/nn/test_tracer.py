"""What torch.fx cannot trace is told with the line of the network, not of what it calls."""

import statistics
import sys

import pytest
from torch import nn

from rsquant.nn.tracer import Tracer, why_untraced


def decide(x):
    return x if x.sum() > 0 else -x


class Decides(nn.Module):
    def forward(self, x):
        return decide(x)


class AsksTheLibrary(nn.Module):
    def forward(self, x):
        return statistics.mean(x)  # this line


class AsksAPackage(nn.Module):
    def forward(self, x):
        import a_helper

        return a_helper.decide(x)  # that line


def line_of(text):
    with open(__file__) as file:
        return next(i for i, line in enumerate(file, 1) if text in line)


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """An installed package with a function that looks at values."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_helper.py").write_text(
        "from torch import nn\n\n"
        "def decide(x):\n    return x if x.sum() > 0 else -x\n\n"
        "class Layer(nn.Module):\n    def forward(self, x):\n        return decide(x)\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("a_helper", None)


def reason(network):
    with pytest.raises(Exception, match=r"traced|iterated") as told:
        Tracer().trace(network)
    # Whoever asks is the first frame, and is rsquant there.
    return why_untraced(told.value.with_traceback(told.value.__traceback__.tb_next))


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (Decides, "x if x.sum()"),
        (lambda: nn.Sequential(nn.ReLU(), Decides()), "x if x.sum()"),
        (AsksTheLibrary, "# this line"),
        (AsksAPackage, "# that line"),
    ],
)
def test_the_line_is_the_last_of_the_network_s_own_program(helper, network, line):
    assert reason(network()).endswith(f", in line {line_of(line)} of {__file__.split('/')[-1]}")


def test_a_layer_of_a_package_is_named_where_nothing_else_is(helper):
    import a_helper

    assert reason(nn.Sequential(a_helper.Layer())).endswith(", in line 4 of a_helper.py")
