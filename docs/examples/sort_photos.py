"""A folder of photographs sorted into folders by class, by a cascade.

    python docs/examples/sort_photos.py MODEL.rsq PHOTOS SORTED --least 0.6

Each photograph is copied to SORTED/CLASS/, or to SORTED/unsure/ where the network gives its
likeliest class less than `--least`; its subfolder of PHOTOS stays below that. Small sizes are tried
first, larger ones only for photographs that these are not sure of: MODEL.rsq has a cascade, which
`rsquant eval MODEL.rsq --cascade --data DIR` fits. No file is replaced; what cannot be read is
named.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rsquant.decoding import UnreadableImage
from rsquant.serve import Predictor
from rsquant.serve.inputs import expand

UNSURE = "unsure"


def folders(classes: Sequence[str]) -> dict[str, str]:
    """A folder's name for each class: names come from the file, and may hold any text."""
    found: dict[str, str] = {}
    for name in classes:
        plain = re.sub(r"[^\w .,()+-]", "_", name).strip(" .") or "class"
        chosen, number = plain, 1
        while chosen in (UNSURE, *found.values()):
            number += 1
            chosen = f"{plain}_{number}"
        found[name] = chosen
    return found


def sort(model: Path, photos: Path, out: Path, least: float) -> tuple[Counter[int], int]:
    """Copy each photograph; returns how many each size decided, and how many were unreadable."""
    predictor = Predictor(model, cascade=True)
    named = folders(predictor.classes)
    decided: Counter[int] = Counter()
    unreadable = 0
    for one in expand([str(photos)]):
        try:
            said = predictor(one.picture())
        except UnreadableImage as error:
            print(f"{one.name}: {error.reason}", file=sys.stderr)
            unreadable += 1
            continue
        decided[said.resolution] += 1
        sure = said.probabilities[0] >= least
        # Subfolders stay: files of different ones may have one name.
        target = out / (named.get(said.label, said.label) if sure else UNSURE) / one.place
        if target.exists():
            raise SystemExit(f"{target}: exists already; choose an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(one.name, target)
    return decided, unreadable


def main(arguments: list[str] | None = None) -> int:
    """Sort, and say how many photographs each size decided."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--least", type=float, default=0.5, help="probability, 0.5 by default")
    given = parser.parse_args(arguments)
    decided, unreadable = sort(given.model, given.photos, given.out, given.least)
    for size, count in sorted(decided.items()):
        print(f"{count} decided at {size} pixels")
    return 3 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
