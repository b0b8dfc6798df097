"""Which networks of torchvision and timm pack, and what the others are refused for.

    pip install --no-deps timm
    python bench/packable.py [--only NAME ...] [--markdown FILE]

Each network (`packable_networks` says which) gets random weights and statistics from random
images, is converted to 2/2 on the coarse grid, packed, and one image is run through the file and
through torch. Every network has a process, with limits of time and memory. Results are lines of
build/packable/results.jsonl; a run goes on where the last one stopped, --only NAME tries a network
again, --again all of them. The table goes to build/packable/table.md, or where --markdown says.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
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
    make,
    sample,
    timm_families,
    torchvision_names,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate

import rsquant
from rsquant import runtime
from rsquant.data.transforms import normalise
from rsquant.errors import ModelError, RsquantError
from rsquant.nn.switchable import ModelSpec

FOLDER = Path("build/packable")
SIZE = 128
SECONDS = 240
BYTES = 12 << 30

PACKS, DIFFERS = "packs", "packs, other logits"
NOT_CONVERTED, NOT_PACKED = "refused by convert", "refused by pack"
FAILS = "fails"
# Both compute the same codes but for ties, since the image's convolution has 16 bits in the file.
# In a network of random weights one tie changes the logits. So the file may be twice as far off as
# the network's own logits are when noise of STIR (a pixel's step is 0.017) is added to the images.
NEAR = 0.02
STIR = 1e-3
IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one network.

    Attributes:
        outcome: PACKS, DIFFERS, NOT_CONVERTED, NOT_PACKED or FAILS.
        reason: the error's line; empty where it packs.
        distance: of the file's logits from torch's, see `apart`; None where nothing ran.
        seconds: of the whole.
    """

    library: str
    family: str
    name: str
    outcome: str
    reason: str = ""
    distance: float | None = None
    seconds: float = 0.0


def examine(network: Network) -> Row:
    """Convert, pack and run one network."""
    torch.manual_seed(0)
    sides = sizes_for(network)
    row = Row(network.library, network.family, network.name, PACKS)
    try:
        model = converted(network, sides)
    except RsquantError as error:
        return dataclasses.replace(row, outcome=NOT_CONVERTED, reason=str(error))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.rsq"
        try:
            rsquant.pack(model, path)
        except RsquantError as error:
            return dataclasses.replace(row, outcome=NOT_PACKED, reason=str(error))
        rsquant.calibrate(model, normalised(images(2, model.resolutions[0]), model))
        rsquant.pack(model, path, exist_ok=True)
        pixels = images(IMAGES, model.resolutions[-1])
        packed = torch.from_numpy(runtime.load(path, threads=1, tune=False)(pixels.numpy()))
    x = normalised(pixels, model)
    stir = STIR * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, stirred = model(x), model(x + stir)
    distance, own = apart(packed, wanted), apart(stirred, wanted)
    outcome = PACKS if distance <= max(NEAR, 2 * own) else DIFFERS
    return dataclasses.replace(row, outcome=outcome, distance=round(distance, 4))


def apart(logits: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest logit, of the median image."""
    return float(((logits - wanted).abs().amax(1) / wanted.abs().amax(1)).median())


def sizes_for(network: Network) -> list[tuple[int, ...]]:
    """Resolutions to try: two small ones, else the one it is made for."""
    small = min(SIZE, network.size)
    own = (network.size,)
    return [own] if network.fixed or small == network.size else [(small, 3 * small // 4), own]


def converted(network: Network, sides: list[tuple[int, ...]]) -> rsquant.SwitchableNetwork:
    """The network at the first of these resolutions at which it runs, in evaluation mode."""
    floats = make(network.library, network.name)
    for sizes in sides:
        try:
            give_statistics(floats, images(4, sizes[0]))
            return rsquant.convert(floats.eval(), 2, 2, sizes, grid="coarse").eval()
        except (ModelError, RuntimeError, ValueError):
            if sizes == sides[-1]:
                raise
    raise AssertionError("no sizes")


@torch.no_grad()
def give_statistics(network: nn.Module, pixels: Tensor) -> None:
    """BatchNorm statistics of a batch: with the initial ones, deep networks give zeros."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    network(normalise(pixels, ModelSpec.mean, ModelSpec.std))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def images(count: int, side: int) -> Tensor:
    """(count, 3, side, side) uint8: random colours that change slowly, and noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    smooth = interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.randn(count, 3, side, side, generator=generator)
    return (128 + 60 * smooth + 10 * noise).clamp(0, 255).to(torch.uint8)


def normalised(pixels: Tensor, model: rsquant.SwitchableNetwork) -> Tensor:
    return normalise(pixels, model.spec.mean, model.spec.std)


def limited(examined: Callable[[Network], Row], network: Network) -> Row:
    """The result of a process of its own, which is ended after SECONDS."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(examined, network, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    row = Row(network.library, network.family, network.name, FAILS)
    try:
        if receiver.poll(SECONDS):
            row = receiver.recv()
        else:
            row = dataclasses.replace(row, reason=f"takes more than {SECONDS} s")
    except EOFError:
        process.join()
        row = dataclasses.replace(row, reason=f"ends with status {process.exitcode}")
    process.kill()
    process.join()
    return dataclasses.replace(row, seconds=round(time.monotonic() - started, 1))


def _in_process(examined: Callable[[Network], Row], network: Network, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    try:
        row = examined(network)
    except Exception as error:  # a result, too
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        row = Row(network.library, network.family, network.name, FAILS, reason)
    sender.send(row)


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
    lines += ["", "| Library | Family | Network | Outcome |", "|---|---|---|---|"]
    for network in tried:
        row = rows.get(key(network))
        if row is not None:
            outcome = f"{row.outcome}: {row.reason}" if row.reason else row.outcome
            cells = (network.library, network.family, network.name, outcome.replace("|", "\\|"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _totals(networks: list[Network], tried: list[Network], rows: dict[str, Row]) -> Iterator[str]:
    for library in ("torchvision", "timm"):
        own = [n for n in networks if n.library == library]
        there = [n for n in tried if n.library == library and key(n) in rows]
        outcomes = Counter(rows[key(n)].outcome for n in there)
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        families: dict[str, set[bool]] = {}
        for network in there:
            # torchvision's VGGs have most of their weights in three Linear layers.
            if network.kind in (CONVOLUTIONAL, OTHER_LAYERS):
                packs = rows[key(network)].outcome == PACKS
                families.setdefault(network.family, set()).add(packs)
        whole = sum(packs == {True} for packs in families.values())
        some = sum(True in packs for packs in families.values())
        yield f"{library}: {len(own)} networks; {len(there)} tried: {said or 'none'}."
        if families:
            percent = 100 * whole / len(families)
            yield (
                f"Of {len(families)} families, all that was tried packs in {whole} "
                f"({percent:.0f} %), some of it in {some}."
            )
        kinds = Counter(n.kind for n in own)
        yield "Kinds: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + "."
        missing = sorted({n.family for n in own if n.kind == CONVOLUTIONAL} - set(families))
        if missing:
            yield f"Families with no result: {', '.join(missing)}."
        if library == "torchvision":
            able = [n for n in own if n.kind != NO_BATCHNORM and n not in tried]
            yield f"Left out as too large: {', '.join(n.name for n in able)}."
        yield ""


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
    wanted = [n for n in networks if n.name in options.only] if options.only else tried
    rows = {f"{line['library']}:{line['name']}": Row(**line) for line in _lines(results)}
    for network in wanted:
        if key(network) in rows and not options.only:
            continue
        row = limited(examine, network)
        rows[key(network)] = row
        with results.open("a") as file:
            print(json.dumps(dataclasses.asdict(row)), file=file, flush=True)
        print(f"{row.name}: {row.outcome} {row.reason} ({row.seconds} s)", flush=True)
        # A run may be ended at any time.
        options.markdown.write_text(table(networks, tried, rows))
    options.markdown.write_text(table(networks, tried, rows))


if __name__ == "__main__":
    main()
