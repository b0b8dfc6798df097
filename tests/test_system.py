"""What the machine refuses is a line that says what to do; pipes and devices are no files."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rsquant import runs
from rsquant.atomic import check_free, replacing, unwritable
from rsquant.config import load_yaml
from rsquant.data.images import UnreadableImage, decode
from rsquant.errors import CheckpointError, ConfigError, PackedFileError, RsquantError
from rsquant.models.checkpoint import load
from rsquant.packed.format import read_packed
from rsquant.staging import staging
from rsquant.system import open_regular, refusal, special


def raised(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_memory_that_no_machine_has_is_a_line_whoever_asked_for_it():
    for error in (
        raised(np.empty, 2**60, np.uint8),
        raised(torch.empty, 2**60),
        raised(bytearray, 2**62),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):
        assert refusal(error).startswith("out of memory; use a smaller `batch`")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_of_a_device_is_a_line(error):
    assert refusal(error).startswith("the device is out of memory; use a smaller `batch`")


@pytest.mark.parametrize(
    "code,line",
    [
        (errno.EACCES, "x: Permission denied; change its permissions"),
        (errno.EROFS, "x: Read-only file system; choose another place"),
        (errno.ELOOP, "x: Too many levels of symbolic links; it is a link to itself"),
        (errno.EMFILE, "x: Too many open files; raise the limit"),
        (errno.EFBIG, "x: File too large; raise the limit of a file's size"),
        (errno.ENOSPC, "x: the disk is full; free some space"),
        (errno.EDQUOT, "x: the disk is full; free some space"),
        (errno.EAGAIN, "x: Resource temporarily unavailable; raise the limit of processes"),
        (errno.EIO, "x: Input/output error; check the disk"),
    ],
)
def test_what_the_system_refuses_is_a_line(code, line):
    assert refusal(OSError(code, os.strerror(code), "x")).startswith(line)


def test_threads_that_cannot_start_are_a_line_and_own_faults_are_none():
    assert "cannot start more threads" in refusal(RuntimeError("can't start new thread"))
    for error in (ZeroDivisionError(), RuntimeError("shape"), FileNotFoundError(2, "no", "x")):
        assert refusal(error) is None


@pytest.mark.parametrize(
    "error,line",
    [
        (ModuleNotFoundError("no", name="click"), "this needs click, which is not installed; pip "),
        (ModuleNotFoundError("no", name="yaml"), "this needs pyyaml, which is not installed; pip "),
        (
            ImportError("libx.so: no such file", name="torch._C"),
            "torch cannot be loaded (libx.so: ",
        ),
    ],
)
def test_packages_that_are_missing_are_named_as_pip_names_them(error, line):
    assert refusal(error).startswith(line)
    assert refusal(ImportError("no", name="rsquant.nn")) is None


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_nothing_waits_for_a_pipe_without_a_writer(pipe):
    assert special(pipe) == "a named pipe" and special(pipe.parent / "none") is None
    assert special("/dev/null") == "a device" and special(pipe.parent) == "a folder"
    with pytest.raises(OSError, match="is a named pipe, not a file"):
        open_regular(pipe)
    with pytest.raises(UnreadableImage, match="is a named pipe, not a file"):
        decode(pipe)
    with pytest.raises(UnreadableImage, match="is a device, not a file"):
        decode("/dev/zero")
    with pytest.raises(CheckpointError, match="is a named pipe; name"):
        runs.resolve(pipe)
    with pytest.raises(CheckpointError, match="is a named pipe; name"):
        load(pipe)
    with pytest.raises(PackedFileError, match="is a named pipe, not a file"):
        read_packed(pipe)
    with pytest.raises(ConfigError, match="is a named pipe, not a file"):
        load_yaml(pipe)


def test_a_recipe_may_come_from_another_command():
    code = (
        "import sys; from rsquant.config import load_yaml; "
        "print(load_yaml(sys.argv[1]).train.epochs)"
    )
    read, write = os.pipe()
    os.write(write, b"train: {epochs: 7}")
    os.close(write)
    done = subprocess.run(
        [sys.executable, "-c", code, f"/dev/fd/{read}"],
        pass_fds=[read],
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(read)
    assert done.stdout.strip() == "7"


def test_no_file_replaces_a_pipe_a_device_or_a_link_to_one(pipe):
    link, out = pipe.parent / "link", pipe.parent / "out"
    link.symlink_to("/dev/null")
    out.mkdir()
    (out / "a").symlink_to(pipe)
    for path, kind in ((pipe, "a named pipe"), (link, "a device"), ("/dev/stdin", "")):
        if not special(path):  # the test's own input may be a file
            continue
        with pytest.raises(RsquantError, match=f"is {kind}.*; name a file"):
            check_free(path, exist_ok=True)
        with pytest.raises(RsquantError, match=f"is {kind}.*; name a file"), replacing(path) as new:
            new.write_text("lost")
    with pytest.raises(RsquantError, match="a: is a named pipe; name"), staging(out) as new:
        (new / "a").write_text("lost")
    assert link.is_symlink() and pipe.is_fifo() and (out / "a").is_symlink()
    assert [p.name for p in out.iterdir()] == ["a"]


def test_a_limit_of_sizes_of_files_is_told():
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    line = "x: cannot be written (File too large); raise the limit of a file's size (ulimit -f)"
    assert str(unwritable("x", error)) == line
