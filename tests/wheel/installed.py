"""What an installation without extras must do: run in an environment of rsquant and numpy alone.

`make wheel` and cibuildwheel call it after they have installed a wheel; a test calls it with every
other package hidden. small.rsq is a network of 3 classes for 32 and 24 pixels, small.json its
logits of made-up images as `rsquant.runtime.reference` computed them.
"""

import importlib.resources
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import rsquant
from rsquant import packages, runtime

HERE = Path(__file__).parent


def images(size):
    """(2, 3, size, size) uint8, the same everywhere."""
    values = np.arange(2 * 3 * size * size) * 37 % 251
    return values.reshape(2, 3, size, size).astype(np.uint8)


def run_packed():
    net = runtime.load(HERE / "small.rsq", threads=2, tune=False)
    assert net.classes == ("cat", "dog", "owl")
    for size, expected in json.loads((HERE / "small.json").read_text()).items():
        logits = net(images(int(size)))
        # Every instruction set gives the same bits as the reference.
        assert np.array_equal(logits, np.array(expected, np.float32)), (size, logits, expected)


def check_names():
    """What needs torch says so, and how to get it."""
    for name in rsquant.__all__:
        try:
            getattr(rsquant, name)
        except ImportError as error:
            extra = packages.NAMES.get(name, "train")
            assert str(error).startswith(f"rsquant.{name} needs torch"), error
            assert str(error).endswith(f"pip install 'rsquant[{extra}]'"), error
        else:
            raise AssertionError(f"rsquant.{name}: came without torch")
    assert not hasattr(rsquant, "nonsense")


def check_command():
    """The installed command is a line too."""
    command = [sys.executable, "-P", "-m", "rsquant", "export", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = "error: rsquant export needs click, which is not installed; "
    assert done.returncode == 2, done
    assert done.stderr == f"{line}pip install 'rsquant[export]'\n", done.stderr


def check_files():
    assert importlib.resources.files("rsquant").joinpath("py.typed").is_file()
    for kernel in ("conv", "quantize"):
        assert importlib.util.find_spec(f"rsquant.kernels.gpu.{kernel}") is not None


def main():
    here = [m for m in packages.modules("all") if packages.installed(m)]
    assert not here, f"this environment is not empty: it has {', '.join(here)}"
    run_packed()
    check_names()
    check_files()
    if "--no-command" not in sys.argv:
        check_command()
    assert not set(packages.modules("all")) & set(sys.modules)
    print(f"rsquant {rsquant.__version__} runs with numpy {np.__version__} alone")


if __name__ == "__main__":
    main()
