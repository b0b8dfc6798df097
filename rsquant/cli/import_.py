"""`rsquant import`."""

from __future__ import annotations

from pathlib import Path

import click

from rsquant import choices
from rsquant.cli.options import Suggested, json_option, sizes_option

_ARCHITECTURES = Suggested("network", choices.ARCHITECTURES)
# What other programs call their files, the longest first.
_SUFFIXES = (".pth.tar", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")


@click.command(name="import", short_help="A checkpoint from a network of the RS-Nets program.")
@click.argument("program", type=click.Choice(choices.IMPORTS))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arch", type=_ARCHITECTURES, required=True, help="Which network it is.")
@sizes_option(
    "Its sizes in pixels in the order of its BatchNorms bn_0, bn_1, ..: as they were given to the "
    "program; default: 224,192,160,128,96."
)
@click.option(
    "--pixels",
    type=click.Choice(choices.PIXELS),
    default="plain",
    show_default=True,
    help=(
        "What its images are: values of 0 to 1, as the published program has them, or normalised "
        "by ImageNet's mean and deviation."
    ),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Checkpoint to write; default: *.safetensors beside FILE.",
)
@click.option("--exist-ok", is_flag=True, help="Replace existing files.")
@json_option()
def command(
    program: str,
    file: Path,
    arch: str,
    resolutions: tuple[int, ...] | None,
    pixels: str,
    out: Path | None,
    exist_ok: bool,
    json_file: Path | None,
) -> None:
    """Read FILE, a float network trained by the published program of PROGRAM, as a checkpoint.

    rsnets: a file that the PyTorch program of RS-Nets (github.com/yikaiw/RS-Nets) saved, as
    model_best.pth.tar. It is read without running code in it.
    """
    from rich.table import Table

    from rsquant.atomic import check_free
    from rsquant.cli.console import console, show
    from rsquant.interop.rsnets import SIZES, import_rsnets
    from rsquant.machine import write_json

    check_free(json_file, exist_ok)
    out = _beside(file) if out is None else out
    imported = import_rsnets(file, arch, out, resolutions or SIZES, pixels, exist_ok)
    network = imported.network
    rows = [
        {"resolution": size, "ensemble": weight}
        for size, weight in zip(
            network.resolutions, imported.ensemble or [None] * len(network.resolutions), strict=True
        )
    ]
    terminal = console()
    table = Table("resolution", "weight in the ensemble")
    for row in rows:
        weight = row["ensemble"]
        table.add_row(str(row["resolution"]), "-" if weight is None else f"{weight:.3f}")
    terminal.print(table)
    show(terminal, f"{network.spec.arch}, float32, {network.spec.num_classes} classes")
    show(terminal, f"written {out}")
    if json_file is not None:
        write_json(json_file, rows)
        show(terminal, f"written {json_file}")


def _beside(file: Path) -> Path:
    """model_best.safetensors of model_best.pth.tar."""
    suffix = next((s for s in _SUFFIXES if file.name.endswith(s)), "")
    stem = file.name.removesuffix(suffix)
    # A file of safetensors keeps its own name.
    return file.with_name(f"{stem}{'_rsquant' if suffix == '.safetensors' else ''}.safetensors")
