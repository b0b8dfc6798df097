"""BatchNorm parameters of each layer at each size (RS-Nets, figure 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rsquant.nn.norm import SwitchableBatchNorm2d
from rsquant.nn.switchable import SwitchableNetwork
from rsquant.report.picture import drawn, png, style
from rsquant.report.section import Picture, Section, Table
from rsquant.settings import row_names

SIDES = {"weight": "scale γ", "bias": "shift β", "running_mean": "mean μ", "running_var": "var σ²"}
# Rows of the picture; layers of more kinds are in the figures alone.
MOST_KINDS = 4


@dataclass(frozen=True)
class Norms:
    """Means over channels.

    Attributes:
        layers: names of L BatchNorms, in the order of the network.
        settings: names of their S rows.
        means: side (of SIDES) -> S lists of L.
    """

    layers: list[str]
    settings: list[str]
    means: dict[str, list[list[float]]]

    def monotonic(self, side: str) -> float:
        """Share of layers whose values rise or fall with the size all the way."""
        columns = list(zip(*self.means[side], strict=True))
        ordered = [sorted(c) == list(c) or sorted(c, reverse=True) == list(c) for c in columns]
        return sum(ordered) / max(1, len(ordered))


@torch.no_grad()
def norms(network: SwitchableNetwork) -> Norms:
    """Read them from a network."""
    found = {n: m for n, m in network.body.named_modules() if isinstance(m, SwitchableBatchNorm2d)}
    settings = row_names(network.settings)
    means = {
        side: [
            [float(getattr(norm, side)[row].double().mean()) for norm in found.values()]
            for row in range(len(settings))
        ]
        for side in SIDES
    }
    return Norms(list(found), settings, means)


def kinds(layers: Sequence[str]) -> dict[str, list[int]]:
    """Layers by what they are in their block: their names without the numbers of stage and block.

    Returns:
        Kind -> positions, of kinds with two layers or more, the most frequent first.
    """
    found: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        found.setdefault(_kind(layer), []).append(position)
    several = {kind: where for kind, where in found.items() if len(where) > 1}
    return dict(sorted(several.items(), key=lambda item: -len(item[1])))


def _kind(layer: str) -> str:
    """layer2.1.bn1 is layer*.*.bn1, features.3.conv.0.1 features.*.conv.0.1."""
    first, *rest = layer.split(".")
    first = re.sub(r"\d+$", "*", first)
    if rest and rest[0].isdecimal() and not all(part.isdecimal() for part in rest):
        rest[0] = "*"
    return ".".join([first, *rest])


def section(run: str, found: Norms) -> Section | None:
    """A row of pictures for each kind of layer; None for a network without BatchNorms."""
    if not found.layers:
        return None
    groups = dict(list(kinds(found.layers).items())[:MOST_KINDS])
    groups = groups or {"all": list(range(len(found.layers)))}
    with drawn(height=2.1 * len(groups), rows=len(groups), columns=4) as (figure, grid):
        for line, (kind, where) in enumerate(groups.items()):
            for column, (side, title) in enumerate(SIDES.items()):
                axes = grid[line, column]
                for index, setting in enumerate(found.settings):
                    values = [found.means[side][index][position] for position in where]
                    look = style(index) | {"markersize": 3}
                    axes.plot(range(1, len(where) + 1), values, label=setting, **look)
                if line == 0:
                    axes.set_title(title)
                if line == len(groups) - 1:
                    axes.set_xlabel("block")
                axes.xaxis.get_major_locator().set_params(integer=True)
                axes.grid(alpha=0.3)
            grid[line, 0].set_ylabel(kind)
        grid[0, 0].legend()
        says = "Means over channels of BatchNorm parameters by layer, a curve per size."
        picture = Picture("batchnorms", png(figure), says)
    rows = [[SIDES[side], f"{100 * found.monotonic(side):.0f} %"] for side in SIDES]
    text = [
        "Means over the channels of what each size has for itself, by layers of one kind in the "
        "order of the network (the paper finds them ordered by size in most layers).",
    ]
    headings = ("", "layers in which it rises or falls with the size all the way")
    figures = {"layers": found.layers, "settings": found.settings, "means": found.means}
    table = Table(headings, rows)
    return Section("batchnorms", "BatchNorms", text, figures, (picture,), (table,), run)
