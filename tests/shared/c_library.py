"""The C library, built once into a folder that stays, and called through ctypes.

It is built for the instruction set `scalar` alone, which is quick: all sets give the same bits.
"""

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "c-tests"
VERSION = 8  # of the newest files that it reads
OK, ARGUMENT, FILE, SIZE, UNSUPPORTED, MEMORY, INTERNAL = range(7)


class Options(ctypes.Structure):
    """rsq_options."""

    _fields_ = [
        ("threads", ctypes.c_int),
        ("low_memory", ctypes.c_int),
        ("tune", ctypes.c_int),
        ("interpolate", ctypes.c_int),
        ("keep_sizes", ctypes.c_int),
        ("isa", ctypes.c_char_p),
        ("kernel", ctypes.c_char_p),
    ]


class Refused(Exception):
    """A call that failed, with its code."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def build():
    """Configure and build where something changed; the folder of the products."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert cmake, "the tests of the C library need cmake: pip install -e '.[dev]'"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DRSQUANT_ONLY=scalar", "-DRSQUANT_OPTIMIZE=-O1"]
    # Networks of tests have layouts on both sides of this limit, and none above that of users.
    options += ["-DRSQUANT_FUZZ=ON", "-DRSQUANT_SMALL_LAYOUT=2048"]
    steps = [[cmake, "-S", str(ROOT / "kernels" / "c"), "-B", str(BUILD), *options]]
    steps += [[cmake, "--build", str(BUILD), "--parallel", "2"]]
    BUILD.parent.mkdir(exist_ok=True)
    # Processes of one run of the tests would build in the folder at the same time.
    with BUILD.with_name(f"{BUILD.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return BUILD


class Library:
    """librsquant.

    Args:
        folder: of the shared library.
    """

    def __init__(self, folder):
        self.c = ctypes.CDLL(str(folder / "librsquant.so"))
        self.c.rsq_error.restype = ctypes.c_char_p
        self.c.rsq_class_name.restype = ctypes.c_char_p
        self.c.rsq_isa.restype = ctypes.c_char_p
        self.c.rsq_version.restype = ctypes.c_char_p

    def error(self):
        return self.c.rsq_error().decode()

    def check(self, status):
        """Raise Refused unless a call succeeded."""
        if status != OK:
            raise Refused(status, self.error())

    def options(self, **changed):
        found = Options()
        self.c.rsq_default_options(ctypes.byref(found))
        found.threads, found.tune = 1, 0
        for name, value in changed.items():
            setattr(found, name, value)
        return found

    def open(self, source, **options):
        """A session of a path, or of a file's bytes."""
        session, of = ctypes.c_void_p(), ctypes.byref(self.options(**options))
        if isinstance(source, bytes):
            status = self.c.rsq_open_memory(source, ctypes.c_size_t(len(source)), of,
                                            ctypes.byref(session))  # fmt: skip
        else:
            status = self.c.rsq_open(str(source).encode(), of, ctypes.byref(session))
        assert (status == OK) == bool(session)
        self.check(status)
        return Session(self, session)


class Session:
    """A network that is open; closed with the last reference to it."""

    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def __del__(self):
        self.library.c.rsq_close(self.handle)

    def __call__(self, images):
        """(N, classes) float32 of (N, 3, H, W) uint8."""
        images = np.ascontiguousarray(images)
        count, _, height, width = images.shape
        logits = np.full((count, self.library.c.rsq_classes(self.handle)), np.nan, np.float32)
        self.library.check(
            self.library.c.rsq_run(
                self.handle, _pointer(images), count, height, width, _pointer(logits)
            )
        )
        return logits

    @property
    def resolutions(self):
        count = self.library.c.rsq_resolutions(self.handle)
        return tuple(self.library.c.rsq_resolution(self.handle, i) for i in range(count))

    def maps(self, images, size):
        """(N, classes, *size) float32."""
        classes = self.library.c.rsq_classes(self.handle)
        return self._of_pixels(
            self.library.c.rsq_maps, images, np.full((len(images), classes, *size), np.nan, "f4")
        )

    def masks(self, images, size):
        """(N, *size) uint16."""
        return self._of_pixels(
            self.library.c.rsq_masks, images, np.full((len(images), *size), 65535, "u2")
        )

    def _of_pixels(self, call, images, out):
        images = np.ascontiguousarray(images)
        count, _, *sides = images.shape
        self.library.check(
            call(self.handle, _pointer(images), count, *sides, *out.shape[-2:], _pointer(out))
        )
        return out

    def map_size(self, height, width):
        sides = ctypes.c_int(), ctypes.c_int()
        self.library.check(
            self.library.c.rsq_map_size(self.handle, height, width, *map(ctypes.byref, sides))
        )
        return sides[0].value, sides[1].value

    @property
    def settings(self):
        """Width, bits of weights and activations."""
        found = []
        for i in range(self.library.c.rsq_settings(self.handle)):
            one = ctypes.c_double(), ctypes.c_int(), ctypes.c_int()
            self.library.check(self.library.c.rsq_setting(self.handle, i, *map(ctypes.byref, one)))
            found.append(tuple(number.value for number in one))
        return tuple(found)

    def use(self, setting):
        self.library.check(self.library.c.rsq_use_setting(self.handle, setting))


def in_threads(works):
    """Run functions at the same time; what each returned."""
    found = [None] * len(works)

    def keep(number):
        found[number] = works[number]()

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def crop(library, photo, resolution):
    """rsq_crop of (H, W, 3) uint8."""
    return _prepared(library, library.c.rsq_crop, photo, resolution)


def square(library, photo, resolution):
    """rsq_square of (H, W, 3) uint8."""
    return _prepared(library, library.c.rsq_square, photo, resolution)


def _prepared(library, call, photo, resolution):
    out = np.empty((3, resolution, resolution), np.uint8)
    height, width, _ = photo.shape
    library.check(call(_pointer(photo), height, width, resolution, _pointer(out)))
    return out


def _pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)
