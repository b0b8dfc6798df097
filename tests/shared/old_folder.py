"""A folder with two files of which writing may replace one, and what is in it."""

from pathlib import Path

from rsquant.staging import staging

OLD = {"a": "old a", "kept": "kept"}


def old_folder(parent: Path) -> Path:
    folder = parent / "out"
    folder.mkdir()
    for name, text in OLD.items():
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Name -> text of each file, hidden ones and those of subfolders too."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_two(folder: Path) -> None:
    with staging(folder) as temporary:
        (temporary / "a").write_text("new a")
        (temporary / "b").write_text("new b")
