"""What all tests share."""

import gc
import os
import signal

import pytest
import torch

from rsquant.data.shapes import ShapesSplit
from rsquant.nn import SwitchableBatchNorm2d
from rsquant.quantizers import lq

# The tensors are tiny: a second thread costs more than it brings, most of all on a busy machine.
torch.set_num_threads(1)

# GPU kernels run on the GPU where there is one, else in Triton's interpreter on the CPU. Triton
# decides when a kernel is defined, so the switch is set before any test imports one.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_finish():
    """What is imported by now stays: no search for garbage need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def gpu():
    """The device that GPU kernels run on in these tests."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    prepare_interpreter_once()
    return torch.device("cpu")


def prepare_interpreter_once():
    """Triton's interpreter puts its own operations in place of the language's for each call of a
    function in a kernel, where they stand already: a quarter of all the time."""
    from triton import language
    from triton.runtime import interpreter

    put = interpreter._patch_lang
    languages = language, language.core

    def put_once(function):
        seen = set(map(id, function.__globals__.values()))
        if any(id(one) in seen and language.core.is_builtin(one.load) for one in languages):
            return put(function)
        return None

    interpreter._patch_lang = put_once


@pytest.fixture(scope="session", autouse=True)
def images_drawn_once():
    """Each image of the built-in set is drawn once for all tests of a process."""
    draw, drawn = ShapesSplit.image, {}

    def image(split, i, min_side=None):
        key = split._seed, split._split, i
        if key not in drawn:
            drawn[key] = draw(split, i, min_side).clone()
        return drawn[key]

    ShapesSplit.image = image
    yield
    ShapesSplit.image = draw


@pytest.fixture(scope="module")
def one_start():
    """Bases are fitted from one start rather than the best of four: a quarter of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lq, "_SCALES", (1.0,))
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """New layers keep what their memory held: weights that are only counted need not be drawn."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def default_signals():
    """Signals as a terminal's programs have them: nohup, a shell's `&` and others ignore some."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def vary():
    """vary(network, seed=0): other BatchNorms at every size and channel; in evaluation mode."""

    def change(network, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, SwitchableBatchNorm2d):
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.uniform_(-0.3, 0.5, generator=generator)
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 2, generator=generator)
        return network.eval()

    return change
