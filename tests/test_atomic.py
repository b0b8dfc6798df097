"""Files are replaced whole or not at all, and nothing else is left."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from old_folder import OLD, contents, old_folder, write_two

from rsquant.atomic import (
    check_free,
    check_suffix,
    check_takes_files,
    replacing,
    sweep,
    unwritable,
)
from rsquant.errors import RsquantError


@pytest.fixture
def folder(tmp_path):
    return old_folder(tmp_path)


def test_a_file_is_replaced_when_the_new_one_is_whole(folder):
    with replacing(folder / "a") as temporary:
        temporary.write_text("new a")
        assert (folder / "a").read_text() == "old a"
        assert temporary.parent == folder  # the same disk
    assert contents(folder) == {"a": "new a", "kept": "kept"}


def test_a_new_file_is_made_with_its_folders(tmp_path):
    with replacing(tmp_path / "new" / "folder" / "a") as temporary:
        temporary.write_text("a")
    assert contents(tmp_path) == {"new/folder/a": "a"}


@pytest.mark.parametrize("error", [ValueError("no"), RsquantError("no"), KeyboardInterrupt()])
def test_an_exception_leaves_the_file_as_it_was_and_is_raised(folder, error):
    with pytest.raises(type(error)) as caught, replacing(folder / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert contents(folder) == OLD


def test_a_file_is_flushed_before_it_gets_its_name(folder, monkeypatch):
    steps = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (steps.append("flush"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("move"), replace(a, b)))
    with replacing(folder / "a") as temporary:
        temporary.write_text("new a")
    assert steps == ["flush", "move"]


def test_a_full_disk_while_a_file_is_flushed_leaves_the_old_one(folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(RsquantError, match=r"out/a: the disk is full; free some space"),
        replacing(folder / "a") as temporary,
    ):
        temporary.write_text("new a")
    assert contents(folder) == OLD


def test_a_file_below_a_file_is_one_line(folder):
    with (
        pytest.raises(RsquantError, match=r"a/b: cannot be written \(File exists\)"),
        replacing(folder / "a" / "b"),
    ):
        pytest.fail("the block must not run")
    assert contents(folder) == OLD


def test_a_file_is_free_if_there_is_none_or_it_may_be_replaced(folder):
    check_free(None, exist_ok=False)
    check_free(folder / "new", exist_ok=False)
    check_free(folder / "a", exist_ok=True)
    with pytest.raises(RsquantError, match=r"out/a: exists already; `exist_ok=True` replaces it"):
        check_free(folder / "a", exist_ok=False)
    for exist_ok in (False, True):
        with pytest.raises(RsquantError, match=r"out: is a folder; name a file"):
            check_free(folder, exist_ok)


def test_a_file_is_not_free_below_a_file(folder):
    with pytest.raises(RsquantError, match=r"out/a: is a file, where a folder is needed"):
        check_free(folder / "a" / "x.json", exist_ok=True)
    with pytest.raises(RsquantError, match=r"out/a/b: .*out/a is a file, where a folder is needed"):
        check_takes_files(folder / "a" / "b")
    check_takes_files(folder / "new" / "b")
    check_takes_files(Path("new"))


@pytest.mark.parametrize(
    "code,message",
    [
        (errno.ENOSPC, "x: the disk is full; free some space and run it again"),
        (errno.EDQUOT, "x: the disk is full; free some space and run it again"),
        (
            errno.EACCES,
            "x: cannot be written (Permission denied); change its permissions, or"
            " choose another place",
        ),
        (
            errno.EROFS,
            "x: cannot be written (Read-only file system); choose another place, or"
            " mount it for writing",
        ),
    ],
)
def test_what_keeps_a_file_from_being_written_is_said(code, message):
    assert str(unwritable("x", OSError(code, os.strerror(code)))) == message


@pytest.mark.parametrize(
    "name,own,message",
    [
        ("x.onnx", ".rsq", r"x\.onnx: rsquant export \(export_onnx\) writes ONNX .* file \*\.rsq"),
        ("X.ONNX", ".rsq", "writes ONNX files"),
        ("x.rsq", ".onnx", r"x\.rsq: rsquant pack \(pack\) writes packed files; .* \*\.onnx"),
        ("x.safetensors", ".rsq", "checkpoints have that name"),
        ("x.pth", ".onnx", "torch's own files have that name"),
    ],
)
def test_a_name_of_another_kind_of_file_is_refused(name, own, message):
    with pytest.raises(RsquantError, match=message):
        check_suffix(name, own)


@pytest.mark.parametrize("name", ["x.rsq", "x.RSQ", "x", "x.v2", "x.onnx.d/x", None])
def test_other_names_are_the_user_s_own(name):
    check_suffix(name, ".rsq")


@pytest.fixture(scope="module")
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written_again(folder, gone):
    (folder / f".a.{gone}.tmp").write_text("half")
    (folder / f".a.{2**70}.tmp").write_text("no process has such a number")
    (folder / f".b.{gone}.tmp").write_text("of another file")
    (folder / ".a.note.tmp").write_text("the user's")
    (folder / "a.1.tmp").write_text("the user's")
    with replacing(folder / "a") as temporary:
        temporary.write_text("new a")
    assert names(folder) == [".a.note.tmp", f".b.{gone}.tmp", "a", "a.1.tmp", "kept"]


def test_what_a_living_process_is_writing_stays(folder):
    alive = folder / f".a.{os.getppid()}.tmp"
    alive.write_text("being written")
    other = folder / ".a.1.tmp"  # init: alive, and perhaps another user's
    other.write_text("being written")
    with replacing(folder / "a") as temporary:
        temporary.write_text("new a")
    assert alive.is_file() and other.is_file()
    sweep(folder)
    assert alive.is_file() and other.is_file()
    sweep(folder, "a", owned=True)
    assert names(folder) == ["a", "kept"]


def test_a_folder_of_files_that_a_killed_process_left_goes_with_the_next(folder, gone):
    left = folder / f".staged.{gone}.abc_def1.tmp"
    (left / "inner").mkdir(parents=True)
    (left / "inner" / "half").write_text("half")
    alive = folder / f".staged.{os.getppid()}.abc_def1.tmp"
    alive.mkdir()
    write_two(folder)
    assert names(folder) == sorted([alive.name, "a", "b", "kept"])


def test_a_link_of_such_a_name_goes_and_not_what_it_leads_to(folder, tmp_path, gone):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (folder / f".a.{gone}.tmp").symlink_to(tmp_path / "mine")
    sweep(folder)
    assert names(folder) == ["a", "kept"]
    assert (tmp_path / "mine" / "file").is_file()


def test_a_process_that_is_killed_while_it_writes_leaves_what_the_next_removes(folder):
    code = """
import os, signal, sys
from rsquant.atomic import replacing
from rsquant.staging import staging
with staging(sys.argv[1]) as temporary, replacing(sys.argv[1] + "/a") as file:
    (temporary / "b").write_text("half")
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert len(names(folder)) == 4
    write_two(folder)
    with replacing(folder / "a") as temporary:
        temporary.write_text("newer a")
    assert contents(folder) == {"a": "newer a", "b": "new b", "kept": "kept"}
    assert names(folder) == ["a", "b", "kept"]


def test_an_error_names_the_file_that_was_to_be(tmp_path):
    """A file written inside the writing of another: whoever asked for one knows no other name."""
    with (
        pytest.raises(RsquantError, match=r"/a\.rsq: cannot be written"),
        replacing(tmp_path / "a.rsq") as temporary,
        replacing(temporary) as inner,
    ):
        inner.write_text("x")
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(inner))
    assert list(tmp_path.iterdir()) == []
