"""`rsquant eval --cascade`: small sizes of a packed file first, fitted and measured."""

from __future__ import annotations

from pathlib import Path

import click

from rsquant.cli.unused import given, refuse_unused

# Options of `rsquant eval` that a cascade has; it runs image by image on the CPU, as a device does.
_OPTIONS = {
    "run_or_checkpoint",
    "cascade",
    "data",
    "images",
    "plot",
    "threads",
    "json_file",
    "exist_ok",
}


def check_options(is_cascade: bool, is_packed: bool) -> None:
    """Raise UsageError for options of the running command that would change nothing.

    Args:
        is_cascade: a cascade is asked for. is_packed: a packed file is evaluated.
    """
    for option in click.get_current_context().command.params:
        name = option.name or ""
        if is_cascade and name not in _OPTIONS and given(name):
            raise click.UsageError(
                f"{option.opts[0]}: changes nothing with --cascade, which runs a packed file image "
                "by image on the CPU; leave out one of them"
            )
    refuse_unused(
        {
            "plot": "" if is_cascade else "draws a --cascade",
            "threads": "" if is_cascade or is_packed else "is of a packed file (.rsq)",
            "which": "is of a run, and a packed file holds one network" if is_packed else "",
        }
    )


def evaluate_cascade(
    target: str | None,
    wanted: str,
    data: str | None,
    images: int | None,
    plot: Path | None,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Fit a cascade of a packed file and store it there, print it, write what was asked for.

    Args:
        target: a .rsq file, or a run that was packed; None: the newest run.
        wanted: top1, or the most that it may cost as a share of the largest size's cost.
        others: as the command has them.
    """
    from rich.table import Table

    from rsquant import runtime
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.evaluate import cascades
    from rsquant.machine import write_json
    from rsquant.report.cascade import draw_cascade
    from rsquant.report.confusion import check_picture

    share = _share(wanted)
    if plot is not None:
        check_picture(plot)
    path, checkpoint = cascades.find_packed(target)
    session = runtime.load(path, threads, interpolate=False)
    source = cascades.open_source(checkpoint, data, images)
    cascades.check_classes(session, source)
    progress = ImageProgress(console())
    progress.echo(f"packed file {path}")
    with progress.shown():
        progress.start("evaluate", 0, 0, 0, len(source.val))
        measured = cascades.measure(session, source.val, progress.advance)
    report = cascades.report(session, measured, source, share)
    largest = report.fixed[0]
    table = Table("sizes", "top-1 %", "MAdds", "of the largest", "ms", "decided by")
    for row in (*report.fixed, report.chosen):
        table.add_row(
            row.name,
            f"{row.top1:.1f}",
            f"{row.madds / 1e6:.2f} M",
            f"{row.madds / largest.madds:.0%}",
            f"{row.milliseconds:.2f}",
            "  ".join(f"{size}: {part:.0%}" for size, part in row.decided.items()),
        )
    progress.console.print(table)
    progress.echo(
        f"thresholds fitted on {report.fitted} images, figures of {report.reported} others; "
        f"cascade minus largest size {report.chosen.top1 - largest.top1:+.1f} points, standard "
        f"error {report.standard_error:.1f}; a stage's features are not used by the next"
    )
    progress.echo(f"stored in {path}")
    if json_file is not None:
        write_json(json_file, report.rows())
        progress.echo(f"written {json_file}")
    if plot is not None:
        draw_cascade(plot, report)
        progress.echo(f"written {plot}")


def _share(wanted: str) -> float | None:
    if wanted == "top1":
        return None
    try:
        share = float(wanted)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(
            f"must be a share of the largest size's cost, above 0 to 1, got '{wanted}'",
            param_hint="--cascade",
        )
    return share
