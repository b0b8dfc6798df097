"""Which networks of torchvision and timm convert, train, pack and export, and why others do not.

    pip install --no-deps timm
    python bench/packable.py [--only NAME ...] [--markdown FILE] [--seconds S]

Each network (`packable_networks` says which) goes through the stages of `packable_stages`, in a
process with limits of time and memory; the first network of every family first. Results are lines
of build/packable/results.jsonl; a run goes on where the last one stopped, --only NAME tries a
network again, --again all of them. The table goes to build/packable/table.md, or where --markdown
says.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from packable_networks import (
    CONVOLUTIONAL,
    NO_BATCHNORM,
    OTHER_LAYERS,
    Network,
    look,
    sample,
    timm_families,
    torchvision_names,
)
from packable_stages import STAGES, Row, examine

FOLDER = Path("build/packable")
SECONDS = 600
BYTES = 12 << 30


def limited(network: Network, seconds: float) -> Row:
    """The result of a process of its own, which is ended after some time."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(network, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    row, why = Row(network.library, network.family, network.name), ""
    try:
        while not why:
            if receiver.poll(max(0.0, started + seconds - time.monotonic())):
                row = receiver.recv()
            else:
                why = f"takes more than {seconds:.0f} s"
    except EOFError:
        process.join()
        if process.exitcode:
            why = f"the process ends with status {process.exitcode}"
    process.kill()
    process.join()
    if why:
        stage = next(stage for stage in STAGES if stage not in row.stages)
        row = row.with_stage(stage, why)
    return dataclasses.replace(row, seconds=round(time.monotonic() - started, 1))


def _in_process(network: Network, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    examine(network, sender.send)


def catalogue(path: Path) -> list[Network]:
    """Every network there is and its kind, from a file that grows: all of timm takes minutes."""
    known = {(n["library"], n["name"]): Network(**n) for n in _lines(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [("torchvision", family, name) for family, name in torchvision_names()]
    names += [("timm", family, name) for family, members in timm_families() for name in members]
    with path.open("a") as file:
        for library, family, name in names:
            if (library, name) not in known:
                network = look(library, family, name)
                known[library, name] = network
                print(json.dumps(dataclasses.asdict(network)), file=file, flush=True)
    return [known[library, name] for library, _, name in names]


def chosen(networks: list[Network]) -> list[Network]:
    """Those to try: torchvision's with BatchNorm2d, and a sample of each family of timm."""
    families: dict[tuple[str, str], list[Network]] = {}
    for network in networks:
        families.setdefault((network.library, network.family), []).append(network)
    picked: list[Network] = []
    for (library, _), members in families.items():
        if library == "timm":
            picked += sample(members)
            continue
        able = sorted((m for m in members if m.kind != NO_BATCHNORM), key=lambda m: m.parameters)
        picked += [m for m in able if not m.too_large] or able[:1]
    return picked


def table(networks: list[Network], tried: list[Network], rows: dict[str, Row]) -> str:
    """Markdown: one line per network that was tried, totals above."""
    lines = list(_totals(networks, tried, rows))
    heads = ("Library", "Family", "Network", "Sizes", *STAGES, "Why not")
    lines += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for network in tried:
        row = rows.get(key(network))
        if row is not None:
            sizes = ", ".join(map(str, row.sizes))
            marks = [_mark(row, stage) for stage in STAGES]
            why = row.reasons.replace("|", "\\|")
            cells = (network.library, network.family, network.name, sizes, *marks, why)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mark(row: Row, stage: str) -> str:
    if stage not in row.stages:
        return "-"
    return "yes" if row.passes(stage) else "no"


def _totals(networks: list[Network], tried: list[Network], rows: dict[str, Row]) -> Iterator[str]:
    for library in ("torchvision", "timm"):
        own = [n for n in networks if n.library == library]
        there = [n for n in tried if n.library == library and key(n) in rows]
        yield f"{library}: {len(own)} networks, {len(there)} tried."
        for stage in STAGES:
            passed = sum(rows[key(n)].passes(stage) for n in there)
            # torchvision's VGGs have most of their weights in three Linear layers.
            families: dict[str, set[bool]] = {}
            for network in there:
                if network.kind in (CONVOLUTIONAL, OTHER_LAYERS):
                    passes = rows[key(network)].passes(stage)
                    families.setdefault(network.family, set()).add(passes)
            whole = sum(passes == {True} for passes in families.values())
            yield (
                f"{stage}: {passed} networks; all that was tried of {whole} families of "
                f"{len(families)}."
            )
        kinds = Counter(n.kind for n in own)
        yield "Kinds: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + "."
        families_there = {n.family for n in there}
        missing = sorted({n.family for n in own if n.kind == CONVOLUTIONAL} - families_there)
        if missing:
            yield f"Families with no result: {', '.join(missing)}."
        if library == "torchvision":
            able = [n for n in own if n.kind != NO_BATCHNORM and n not in tried]
            yield f"Left out as too large: {', '.join(n.name for n in able)}."
        yield ""


def by_family(tried: list[Network]) -> list[Network]:
    """The first network of every family, then the second of every one, and so on."""
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for network in tried:
        family = (network.library, network.family)
        places.append(seen[family])
        seen[family] += 1
    return [n for _, n in sorted(zip(places, tried, strict=True), key=lambda pair: pair[0])]


def key(network: Network) -> str:
    return f"{network.library}:{network.name}"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="try these again")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--markdown", type=Path, default=FOLDER / "table.md", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each network")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = FOLDER / "results.jsonl"
    if options.again:
        results.unlink(missing_ok=True)
    networks = catalogue(FOLDER / "networks.jsonl")
    unknown = set(options.only) - {n.name for n in networks}
    if unknown:
        sys.exit(f"--only: neither torchvision nor timm has '{sorted(unknown)[0]}'")
    tried = chosen(networks)
    wanted = [n for n in networks if n.name in options.only] if options.only else by_family(tried)
    rows = {f"{line['library']}:{line['name']}": Row(**line) for line in _lines(results)}
    for network in wanted:
        if key(network) in rows and not options.only:
            continue
        row = limited(network, options.seconds)
        rows[key(network)] = row
        with results.open("a") as file:
            print(json.dumps(dataclasses.asdict(row)), file=file, flush=True)
        passed = ", ".join(stage for stage in STAGES if row.passes(stage))
        print(f"{row.name}: {passed}; {row.reasons} ({row.seconds} s)", flush=True)
        # A run may be ended at any time.
        options.markdown.write_text(table(networks, tried, rows))
    options.markdown.write_text(table(networks, tried, rows))


if __name__ == "__main__":
    main()
