"""The API reference, from the docstrings, to build/docs: `make docs`."""

from pathlib import Path

import pdoc

import rsquant

MODULES = (
    "rsquant",
    "rsquant.runtime",
    "rsquant.serve",
    "rsquant.quantizers",
    "rsquant.tasks",
    "rsquant.settings",
    "rsquant.packing",
    "rsquant.packed.ops",
)

if __name__ == "__main__":
    for name in rsquant.__all__:  # imported when first used, which pdoc does not wait for
        setattr(rsquant, name, getattr(rsquant, name))
    pdoc.render.configure(docformat="google", show_source=False)
    folder = Path(__file__).parent.parent / "build" / "docs"
    pdoc.pdoc(*MODULES, "!rsquant.cli", output_directory=folder)
    print(f"written {folder / 'index.html'}")
