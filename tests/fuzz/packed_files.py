"""Thousands of altered packed files through the compiled runtime; `make fuzz` runs it under ASan.

    python tests/fuzz/packed_files.py [FILES] [SEED]

Each file is a small packed network, one of some that have every operation between them, with
flipped bits, overwritten numbers, cut ends or moved bytes; or, every other one, with other numbers
in the fields of its operations and quantizers, so that more of them run.
With the checksum left alone it must be refused, or give the right answer. With the
checksum repaired, as somebody who means harm would, it must be refused with one clear error or
run to an answer of finite numbers; what must not happen is a crash, which AddressSanitizer and
UndefinedBehaviorSanitizer turn every access out of bounds into.

The seeds are made with torch in a process of their own: torch does not start under the sanitizer.
"""

import collections
import contextlib
import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

FAILED = Path(__file__).parents[2] / "build" / "fuzz" / "failed"
SHARED = Path(__file__).parents[1] / "shared"
SEEDS = "import sys, every_operation; every_operation.write(sys.argv[1])"


def altered(data, rng):
    """A copy of the bytes, altered somewhere; headers more often than their share."""
    new = bytearray(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.integers(1, 4)):
        if not new:  # cut at its first byte
            break
        end = header if rng.random() < 0.6 else len(new)
        at = int(rng.integers(0, min(end, len(new))))
        kind = rng.integers(0, 6)
        if kind == 0:
            new[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            new[at] = int(rng.integers(0, 256))
        elif kind == 2:  # another digit: stays JSON
            digits = [i for i in range(at, min(at + 400, len(new))) if 48 <= new[i] <= 57]
            if digits:
                new[int(rng.choice(digits))] = 48 + int(rng.integers(0, 10))
        elif kind == 3:
            del new[at:]
        elif kind == 4:
            new[at : at + 4] = int(rng.integers(0, 2**32)).to_bytes(4, "little")
        else:
            length = int(rng.integers(1, 64))
            other = int(rng.integers(0, len(new)))
            new[at : at + length] = new[other : other + length]
    return bytes(new)


def altered_plan(metadata, rng):
    """A copy of a file's metadata with other values of the right kind in one to three fields."""
    new = copy.deepcopy(metadata)
    for _ in range(rng.integers(1, 4)):
        items = new["quantizers" if rng.random() < 0.1 and new["quantizers"] else "steps"]
        item, other = (items[int(rng.integers(0, len(items)))] for _ in range(2))
        field = str(rng.choice([name for name in item if name not in ("op", "name")]))
        same = rng.random() < 0.3 and field in other
        item[field] = copy.deepcopy(other[field]) if same else another(item[field], rng)
    return new


def another(value, rng):
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if value is None:
        return int(rng.integers(0, 20))
    if isinstance(value, int):
        near = value + int(rng.integers(-2, 3))
        return int(rng.choice([near, int(rng.integers(0, 40)), 31, 4096, 65536, 2**31 - 1]))
    if isinstance(value, float):
        return float(rng.choice([0.0, -value, value * 1e3, value * 1e-3, 1e30, 1e-30, 1.0]))
    if isinstance(value, list) and value:
        new, at = list(value), int(rng.integers(0, len(value)))
        new[at] = another(new[at], rng)
        return new[::-1] if rng.random() < 0.2 else new
    return value


def use_extension(path):
    """Let rsquant.kernels load this build of the extension."""
    name = "rsquant.kernels._cpu"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def failed(number, data, what):
    """Keep a file that failed, and say so."""
    kept = FAILED / f"packed_{number}.rsq"
    FAILED.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return AssertionError(f"file {number}: {what}; kept as {kept}")


def main(files, seed):
    import numpy as np

    if "RSQUANT_NATIVE" in os.environ:
        use_extension(os.environ["RSQUANT_NATIVE"])
    sys.path.append(str(SHARED))
    from low_memory import without_layouts

    from rsquant.errors import RsquantError
    from rsquant.kernels import available
    from rsquant.packed.file import open_packed
    from rsquant.packed.format import read_packed, write_packed
    from rsquant.packed.ops.registry import operations
    from rsquant.runtime import load

    rng = np.random.default_rng(seed)
    isas = [isa.name for isa in available() if isa.usable]
    outcomes = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RSQUANT_CACHE"] = folder
        clean = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "RSQUANT_NATIVE")}
        clean["PYTHONPATH"] = str(SHARED)
        subprocess.run([sys.executable, "-P", "-c", SEEDS, folder], check=True, env=clean)
        seeds = [p.read_bytes() for p in sorted(Path(folder).glob("*.rsq"))]
        path = Path(folder) / "altered.rsq"
        pixels = rng.integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
        expected, plans = [], []
        unseen = set(operations())
        for data in seeds:
            path.write_bytes(data)
            plans.append(read_packed(path))
            unseen -= {step.OP for step in open_packed(path).plan.steps}
            expected.append(load(path, 1, tune=False)(pixels))
        assert not unseen, f"no seed has {sorted(unseen)}; tests/shared/every_operation.py"
        for number in range(files):
            which = int(rng.integers(0, len(seeds)))
            path.unlink(missing_ok=True)  # the last one may still be mapped
            if number % 2:
                write_packed(path, plans[which][0], altered_plan(plans[which][1], rng))
                data, repaired = path.read_bytes(), True
            else:
                data = altered(seeds[which], rng)
                repaired = bool(rng.random() < 0.75) and len(data) > 16
                if repaired:
                    data = data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")
                path.write_bytes(data)
            try:
                memory = "low" if rng.random() < 0.3 else "full"
                threads, isa = int(rng.integers(1, 3)), isas[number // 2 % len(isas)]
                # Half of low memory as large layers are run: no network here has any.
                bare = memory == "low" and rng.random() < 0.5
                with without_layouts() if bare else contextlib.nullcontext():
                    answer = load(path, threads, memory, isa, tune=False)(pixels)
            except RsquantError as error:
                if "\n" in str(error):
                    raise failed(number, data, "an error of several lines") from error
                outcomes["refused"] += 1
                continue
            except Exception as error:  # what must not happen
                raise failed(number, data, "not an RsquantError") from error
            if not np.isfinite(answer).all():
                raise failed(number, data, "logits that are not finite")
            if not repaired and not np.array_equal(answer, expected[which]):
                raise failed(number, data, "a wrong answer")
            outcomes["ran, checksum repaired" if repaired else "ran, right"] += 1
    print(dict(outcomes))


if __name__ == "__main__":
    warnings.simplefilter("error")
    arguments = [int(a) for a in sys.argv[1:]]
    main(*(arguments + [3000, 0][len(arguments) :]))
