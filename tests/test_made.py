"""The list of files that rsquant has made: what is ours, and what is not."""

import json
import os

import pytest

from rsquant.errors import RsquantError
from rsquant.made import LIST, Made
from rsquant.staging import staging


def put(folder, name, text="x"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_listed_file_is_ours_until_it_is_changed(tmp_path):
    path = put(tmp_path, "a.png")
    assert not Made(tmp_path).owns(path)
    Made(tmp_path).note({"a.png": path})
    assert Made(tmp_path).owns(path)
    path.write_text("drawn over")
    assert not Made(tmp_path).owns(path)


def test_a_copy_with_another_name_and_a_link_are_not_ours(tmp_path):
    path, copy = put(tmp_path, "a.png"), put(tmp_path, "b.png")
    Made(tmp_path).note({"a.png": path})
    assert not Made(tmp_path).owns(copy)
    path.unlink()
    path.symlink_to(copy)
    assert not Made(tmp_path).owns(path)


def test_nothing_but_our_own_is_replaced(tmp_path):
    path = put(tmp_path, "a.png")
    made = Made(tmp_path)
    made.check(tmp_path / "none.png", exist_ok=False)
    with pytest.raises(RsquantError, match=r"a\.png: exists already; `exist_ok=True` replaces it"):
        made.check(path, exist_ok=False)
    with pytest.raises(RsquantError, match=r"a\.png: is not .* made it, or is of a version before"):
        made.check(path, exist_ok=True)
    made.note({"a.png": path})
    made.check(path, exist_ok=True)
    with pytest.raises(RsquantError, match=r"b\.png: is not as rsquant made it, so it is not repl"):
        made.check(put(tmp_path, "b.png"), exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RsquantError, match="is not as rsquant made it"):
        made.check(tmp_path / "pipe", exist_ok=True)


def test_removing_leaves_what_is_not_ours(tmp_path):
    made = Made(tmp_path)
    for name in ("a.png", "below/b.png", "changed.png"):
        made.note({name: put(tmp_path, name)})
    put(tmp_path, "changed.png", "by hand")
    put(tmp_path, "mine.png")
    Made(tmp_path).remove()
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"changed.png", "mine.png"}


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hosts", "a/../../outside.txt", ""])
def test_a_list_names_nothing_outside_of_its_folder(tmp_path, name):
    outside, folder = put(tmp_path, "outside.txt"), tmp_path / "folder"
    Made(tmp_path).note({"outside.txt": outside})
    holds = json.loads((tmp_path / LIST).read_text())["holds"]
    put(folder, LIST, json.dumps({"file": name, "holds": holds}) + "\n")
    Made(folder).remove()
    assert outside.exists()


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"[]", b'{"file": 1}', b"[" * 100_000])
def test_a_damaged_line_is_passed_over(tmp_path, line):
    path = put(tmp_path, "a.png")
    Made(tmp_path).note({"a.png": path})
    whole = (tmp_path / LIST).read_bytes()
    (tmp_path / LIST).write_bytes(line + b"\n" + whole)
    assert Made(tmp_path).owns(path)


def test_staged_files_replace_their_own_alone(tmp_path):
    def write(text):
        with staging(tmp_path, own=True) as folder:
            put(folder, "a.txt", text)
            put(folder, "b.txt", text)

    mine = put(tmp_path, "b.txt", "mine")
    with pytest.raises(RsquantError, match=r"b\.txt: is not as rsquant made it"):
        write("first")
    assert mine.read_text() == "mine" and not (tmp_path / "a.txt").exists()
    mine.unlink()
    write("first")
    write("second")
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text() == "second"
