"""A folder's files are replaced together, or not at all, and nothing else is left."""

import errno
import os

import pytest
from old_folder import OLD, contents, old_folder, write_two

from rsquant.errors import RsquantError
from rsquant.staging import staging


@pytest.fixture
def folder(tmp_path):
    return old_folder(tmp_path)


def test_files_are_moved_to_the_folder_and_replace_what_was_there(folder):
    write_two(folder)
    assert contents(folder) == {"a": "new a", "b": "new b", "kept": "kept"}
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "kept"]


def test_nothing_is_seen_before_the_end(folder):
    with staging(folder) as temporary:
        (temporary / "a").write_text("new a")
        assert (folder / "a").read_text() == "old a"
        assert temporary.parent == folder  # the same disk, so that moving is renaming
        assert (temporary / "a").read_text() == "new a"


def test_files_have_their_names_while_they_are_made(folder):
    with staging(folder) as temporary:
        assert list(temporary.iterdir()) == []
        (temporary / "graph").write_text("names weights")
        (temporary / "weights").write_text("w")
        assert sorted(path.name for path in temporary.iterdir()) == ["graph", "weights"]


def test_a_folder_is_made_with_its_parents(tmp_path):
    write_two(tmp_path / "new" / "folder")
    assert contents(tmp_path) == {"new/folder/a": "new a", "new/folder/b": "new b"}


def test_no_files_are_no_change(folder):
    with staging(folder):
        pass
    assert contents(folder) == OLD


def test_it_may_be_done_again(folder):
    write_two(folder)
    write_two(folder)
    assert contents(folder) == {"a": "new a", "b": "new b", "kept": "kept"}


@pytest.mark.parametrize("error", [ValueError("no"), RsquantError("no"), KeyboardInterrupt()])
def test_an_exception_leaves_the_folder_as_it_was_and_is_raised(folder, error):
    with pytest.raises(type(error)) as caught, staging(folder) as temporary:
        (temporary / "a").write_text("new a")
        (temporary / "b").write_text("new b")
        raise error
    assert caught.value is error
    assert contents(folder) == OLD
    assert sorted(path.name for path in folder.iterdir()) == ["a", "kept"]


def test_a_full_disk_while_files_are_made_is_one_line(folder):
    with (
        pytest.raises(RsquantError, match=r"out: the disk is full; free some space") as caught,
        staging(folder) as temporary,
    ):
        (temporary / "a").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "\n" not in str(caught.value)
    assert contents(folder) == OLD


def test_a_disk_that_is_full_when_files_are_flushed_changes_nothing(folder, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RsquantError, match="out: the disk is full"):
        write_two(folder)
    assert contents(folder) == OLD
    with pytest.raises(OSError):
        os.fstat(calls[1])  # closed


def test_every_file_is_flushed_before_the_first_is_moved(folder, monkeypatch):
    steps = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (steps.append("flush"), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("move"), replace(a, b)))
    write_two(folder)
    assert steps == ["flush", "flush", "move", "move"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    # A user without the right to write gets the same; the superuser, as in a container, has it.
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(RsquantError, match=r"out: cannot be written \(Not a directory\)") as caught,
        staging(tmp_path / "file" / "out"),
    ):
        pytest.fail("the block must not run")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_is_not_writable_is_one_line(folder):
    folder.chmod(0o555)
    try:
        with pytest.raises(RsquantError, match=r"out: cannot be written \(Permission denied\)"):
            write_two(folder)
    finally:
        folder.chmod(0o755)
    assert contents(folder) == OLD


def test_a_name_that_is_taken_by_a_folder_changes_nothing(folder):
    (folder / "b").mkdir()
    (folder / "b" / "inner").write_text("mine")
    with pytest.raises(RsquantError, match=r"cannot be written") as caught:
        write_two(folder)
    assert "\n" not in str(caught.value)
    assert contents(folder) == OLD | {"b/inner": "mine"}


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(folder):
    # In a container every run has the same few numbers.
    with staging(folder) as temporary:
        name = temporary.name
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "half").write_text("half")
    write_two(folder)
    found = contents(folder)
    assert (found["a"], found["b"]) == ("new a", "new b")
    assert "half" not in found  # and it is not taken for a new file


def test_two_exports_into_one_folder_do_not_disturb_each_other(folder):
    with staging(folder) as one:
        (one / "a").write_text("one")
        with staging(folder) as two:
            (two / "b").write_text("two")
    assert contents(folder) == {"a": "one", "b": "two", "kept": "kept"}


def test_folders_that_were_made_for_a_failed_staging_go_again(tmp_path):
    with pytest.raises(KeyError), staging(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), staging(tmp_path / "a" / "b"):
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with staging(tmp_path / "a" / "b") as folder:
        (folder / "kept").write_text("")
    assert (tmp_path / "a" / "b" / "kept").is_file()
