"""Packages that not every installation has: which extra brings each, and the line to type.

An installation without extras has numpy and the compiled kernels, which is what
`rsquant.runtime` needs. pyproject.toml holds the packages and their versions.
"""

from __future__ import annotations

import importlib.util

from rsquant.errors import MissingPackage

# Extra -> the modules that it brings by itself, besides those of the extras it contains.
EXTRAS = {
    "cli": ("click", "rich"),
    "predict": ("PIL",),
    "video": ("cv2",),
    "train": (
        "torch",
        "torchvision",
        "brevitas",
        "safetensors",
        "yaml",
        "tensorboard",
        "matplotlib",
    ),
    "shards": ("webdataset",),
    "export": ("onnx", "onnxruntime"),
    "gpu": ("torch", "triton"),
    "timm": ("timm",),
    "nyu": ("h5py", "scipy"),
}
# Extra -> the extras it contains.
CONTAINS = {
    "predict": ("cli",),
    "video": ("predict",),
    "train": ("predict",),
    "shards": ("train",),
    "export": ("train",),
    "timm": ("train",),
    "nyu": ("train",),
    "bench": ("train", "export"),
    "all": ("train", "shards", "export", "bench", "gpu", "timm", "video", "nyu"),
}
# Command -> the extra with everything it uses, in the order of the help page.
COMMANDS = {
    "train": "train",
    "eval": "train",
    "predict": "predict",
    "export": "export",
    "pack": "train",
    "bench": "bench",
    "report": "train",
    "study": "train",
    "info": "cli",
    "import": "train",
}
# Public name of `rsquant` -> its extra, where that is not "train".
NAMES = {"export_onnx": "export", "export": "export", "bench": "bench"}
# Modules whose package has another name.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless"}


def distribution(module: str) -> str:
    """The name that pip knows the package of a module by."""
    return _DISTRIBUTIONS.get(module, module)


def modules(extra: str) -> tuple[str, ...]:
    """Every module that an extra brings, those of the extras it contains first."""
    inner = [m for name in CONTAINS.get(extra, ()) for m in modules(name)]
    return tuple(dict.fromkeys((*inner, *EXTRAS.get(extra, ()))))


def extra_of(module: str) -> str | None:
    """The smallest extra that brings a module; None where none does."""
    return next((extra for extra, brought in EXTRAS.items() if module in brought), None)


def installed(module: str) -> bool:
    """Whether a top-level module can be imported, as far as that shows without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
    except ValueError:  # it is loaded already, by hand
        return True


def install(extra: str) -> str:
    """The line that installs an extra."""
    return f"pip install 'rsquant[{extra}]'"


def missing(who: str, needed: tuple[str, ...], extra: str) -> MissingPackage:
    """The error that says who needs modules that are not installed, and the line to type."""
    *others, last = map(distribution, needed)
    named = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others else "is"
    line = f"{who} needs {named}, which {verb} not installed; {install(extra)}"
    return MissingPackage(line, needed)


def require(who: str, extra: str, *needed: str) -> None:
    """Raise MissingPackage, naming all that are not installed, unless all modules are."""
    absent = tuple(module for module in needed if not installed(module))
    if absent:
        raise missing(who, absent, extra)


def absent_modules(error: ImportError) -> tuple[str, ...]:
    """The known modules whose absence an ImportError reports; () for another cause."""
    if isinstance(error, MissingPackage):
        return error.modules
    module = error.name or ""
    if isinstance(error, ModuleNotFoundError) and extra_of(module) is not None:
        return (module,)
    return ()
