"""Every convolution kernel of every instruction set against 64-bit sums, bit for bit.

`emulated/driver.cpp` is compiled with the kernels' sources for one instruction set at a time and
runs them on random shapes. What this machine lacks is emulated: AVX-512 by SIMDe (Debian:
libsimde-dev), ARM by qemu (qemu-user, g++-aarch64-linux-gnu). Skipped here means untested.

Nearly all of the time is the compiler's. So this machine's kernels are tested with sanitizers, and
of two instruction sets that have most in common the richer one; the slow tests do the rest.
"""

import functools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rsquant import kernels

HERE = Path(__file__).parent / "emulated"
CPU = Path(__file__).parents[2] / "kernels" / "cpu"
CASES = 120
FEWEST_RUNS = 10  # of each kernel

# As in kernels/CMakeLists.txt.
AVX2 = ("-mavx2", "-mfma", "-mpopcnt")
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *QUIET)
FLAGS = {
    "scalar": (),
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512vnni": (*AVX512, "-mavx512vnni", "-mavx512vpopcntdq", "-mavx512vbmi"),
    "neon": (),
    "neondot": ("-march=armv8.2-a+dotprod",),
}
EMULATED = (*AVX2, "-Wno-psabi", "-include", str(HERE / "emulate_avx512.h"))
CHECKS = "address,bounds,shift,signed-integer-overflow"
# Calls in place of checks at each access: half the compiler's time.
CALLS = ("--param", "asan-instrumentation-with-call-threshold=0")
ARM = "aarch64-linux-gnu-g++"


@dataclass(frozen=True)
class Build:
    isa: str
    flags: tuple[str, ...]
    compiler: str = "g++"
    link: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@functools.cache
def compiles(folder: Path, program: str, compiler: str, *flags: str) -> bool:
    source = folder / "try.cpp"
    source.write_text(program)
    return run(compiler, *flags, source, "-o", folder / "try").returncode == 0


def check(build: Build, folder: Path) -> None:
    """Compile the driver for `build`, run it, and see that no kernel was left out."""
    sources = [f for f in CPU.glob("*.cpp") if "extern const ConvKernel" in f.read_text()]
    sources.append(CPU / "epilogue.cpp")
    flags = [
        "-std=c++20",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{CPU}",
        f"-DRSQUANT_ISA={build.isa}",
        f"-DRSQUANT_SIMD=simd_{build.isa}.h",
    ]

    def compiled(source: Path) -> Path:
        to = folder / f"{source.stem}.o"
        # The driver's own sums need no instruction set and no sanitizer, only speed.
        own = ("-O1",) if source.stem == "driver" else build.flags
        done = run(build.compiler, *flags, *own, "-c", source, "-o", to)
        assert done.returncode == 0, done.stderr
        return to

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compiled, [*sources, HERE / "driver.cpp"]))
    done = run(build.compiler, *build.flags, *build.link, *objects, "-o", folder / "driver")
    assert done.returncode == 0, done.stderr
    # The sanitizer's search for leaks fails where tracing is not allowed.
    done = run(*build.runner, folder / "driver", str(CASES), ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {name: int(count) for name, count in re.findall(r"^(\w+): (\d+)$", done.stdout, re.M)}
    assert "direct" in runs and min(runs.values()) >= FEWEST_RUNS, runs


def check_sanitized(native: str, checks: str, folder: Path) -> None:
    need("g++")
    flags = (f"-fsanitize={checks}", "-fno-sanitize-recover=all", *CALLS)
    if not compiles(folder, "int main() {}", "g++", *flags):
        pytest.skip("g++ has no sanitizers here")
    check(Build(native, ("-O0", *flags, *FLAGS[native])), folder)


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")


NATIVE = [isa.name for isa in kernels.available() if isa.usable]
RICHER = {"scalar": "avx2", "avx512": "avx512vnni", "neon": "neondot"}


@pytest.mark.slow
@pytest.mark.parametrize("native", NATIVE)
def test_kernels_of_this_machine_are_exact(native: str, tmp_path: Path) -> None:
    need("g++")
    check(Build(native, ("-O1", *FLAGS[native])), tmp_path)


@pytest.mark.parametrize(
    "native",
    [
        pytest.param(isa, marks=pytest.mark.slow if RICHER.get(isa) in NATIVE else ())
        for isa in NATIVE
    ],
)
def test_kernels_stay_inside_their_buffers(native: str, tmp_path: Path) -> None:
    check_sanitized(native, CHECKS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("native", NATIVE)
def test_kernels_do_nothing_undefined(native: str, tmp_path: Path) -> None:
    check_sanitized(native, "address,undefined", tmp_path)


@pytest.mark.parametrize(
    "isa",
    [
        # Run without emulation above, by a machine that has it.
        pytest.param("avx512vnni", marks=pytest.mark.slow if "avx512vnni" in NATIVE else ()),
        pytest.param("avx512", marks=pytest.mark.slow),
    ],
)
def test_avx512_kernels_are_exact_when_emulated(isa: str, tmp_path: Path) -> None:
    need("g++")
    program = (
        '#include <simde/x86/avx512.h>\nint main() { return !__builtin_cpu_supports("avx2"); }'
    )
    if not compiles(tmp_path, program, "g++", "-mavx2"):
        pytest.skip("no SIMDe, or no x86-64 compiler")
    if run(tmp_path / "try").returncode != 0:
        pytest.skip("no AVX2 to emulate with")
    vnni = ("-DEMULATE_VNNI",) if isa == "avx512vnni" else ()
    check(Build(isa, ("-Og", *EMULATED, *vnni)), tmp_path)


@pytest.mark.parametrize("isa", ["neondot", pytest.param("neon", marks=pytest.mark.slow)])
def test_arm_kernels_are_exact_when_emulated(isa: str, tmp_path: Path) -> None:
    need(ARM)
    need("qemu-aarch64")
    build = Build(isa, ("-O1", *FLAGS[isa]), ARM, ("-static",), ("qemu-aarch64",))
    check(build, tmp_path)
