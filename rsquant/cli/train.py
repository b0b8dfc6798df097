"""`rsquant train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from rsquant import packages
from rsquant.cli.data_options import DATA
from rsquant.cli.network_options import NETWORK
from rsquant.cli.options import RunOrCheckpoint, json_option, mapping
from rsquant.cli.training_options import TRAINING
from rsquant.cli.unused import refuse_unused
from rsquant.machine import quiet_torch

# Sections of the configuration, whose keys are the names of these.
_SECTIONS = {"model": NETWORK, "data": DATA, "train": TRAINING}
_NEEDED = (*(m for m in packages.EXTRAS["train"] if m != "brevitas"), *packages.EXTRAS["predict"])
# What may change when a run is continued.
_ON_RESUME = {"workers", "device", "save_minutes", "epochs", "teacher", "patience"}


@click.command(
    short_help="Train a network for several resolutions at once.",
    params=[*NETWORK, *DATA, *TRAINING],
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="A YAML recipe; flags override it.",
)
@click.option("--name", help="Name of the run's folder under runs/.")
@click.option("--exist-ok", is_flag=True, help="Replace a run of that name.")
@click.option(
    "--resume",
    type=RunOrCheckpoint(),
    is_flag=False,
    flag_value="",
    default=None,
    help="Continue a run: a folder, or the newest. --epochs may be more than before.",
)
@json_option("Write the metrics of all epochs here at the end.")
@click.option(
    "--callback",
    "callbacks",
    metavar="MODULE:NAME",
    multiple=True,
    help="What else hears of steps and epochs, see docs/callbacks.md; may repeat.",
)
def command(
    data: str | None,
    config_file: Path | None,
    name: str | None,
    exist_ok: bool,
    json_file: Path | None,
    resume: str | None,
    callbacks: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train one network whose weights serve all resolutions.

    Without --data it uses a built-in generated set and a small recipe that takes minutes on a CPU;
    with --data, one for small sets or, from 100,000 images on, the published recipe. --config sets
    everything; flags win. A flag that is not given keeps the recipe's value, which the first lines
    show and the run's config.yaml holds.
    """
    # Before the first step, not after the last: the curves are drawn at the end.
    packages.require("rsquant train", "train", *_NEEDED)
    quiet_torch()
    from rsquant.train.distributed import joined

    flags["layer_bits"] = mapping("--layer-bits", flags["layer_bits"])
    flags["layer_quantizer"] = mapping("--layer-quantizer", flags["layer_quantizer"])
    flags["freeze"] = flags["freeze"] or None
    if flags.pop("no_amp"):
        if flags["amp"] is not None:
            raise click.UsageError("--no-amp: is --amp none, and --amp is given; leave out one")
        flags["amp"] = "none"
    given = {key: value for key, value in flags.items() if value is not None}
    if "bits" in given and given.keys() & {"wbits", "abits"}:
        raise click.UsageError("--bits: its first setting has the bits; leave out --wbits, --abits")
    with joined() as group:
        _train(group, data, config_file, name, exist_ok, json_file, resume, callbacks, given)


def _train(
    group: Any,
    data: str | None,
    config_file: Path | None,
    name: str | None,
    exist_ok: bool,
    json_file: Path | None,
    resume: str | None,
    callbacks: tuple[str, ...],
    given: dict[str, Any],
) -> None:
    from rsquant.atomic import check_free
    from rsquant.cli.console import console
    from rsquant.cli.progress import ImageProgress
    from rsquant.train.callbacks import named_callback

    if group.is_first:
        check_free(json_file, exist_ok)
    heard = [named_callback(name) for name in callbacks] if group.is_first else []
    progress = ImageProgress(console(quiet=not group.is_first))
    if resume is not None:
        # --exist-ok is for the --json file then.
        other = bool(config_file or name or (exist_ok and json_file is None))
        run = _resume(group, resume, given, data, other, progress, heard)
    else:
        replaced = name is not None or json_file is not None
        refuse_unused({"exist_ok": "" if replaced else "replaces the run of a --name, or --json"})
        config, lines, source = _configuration(data, config_file, given)
        from rsquant.train.training import start

        with progress.shown():
            run, result = start(
                config,
                progress,
                progress.echo,
                name,
                exist_ok,
                opening=lines,
                source=source,
                callbacks=heard,
                group=group,
            )
        _finish(group, run, result, progress)
    if group.is_first:
        _write_metrics(json_file, run, progress)


def _configuration(data: str | None, config_file: Path | None, given: dict[str, Any]) -> Any:
    """The RunConfig a command line means, what to tell the user about it, and its data set."""
    from rsquant.train.small_set import configure

    sections: dict[str, dict[str, Any]] = {
        section: {o.name: given[o.name] for o in options if o.name in given}
        for section, options in _SECTIONS.items()
    }
    if data is not None:
        sections["data"]["source"] = data
    return configure(config_file, {k: v for k, v in sections.items() if v})


def _resume(
    group: Any,
    resume: str,
    given: dict[str, Any],
    data: str | None,
    others: bool,
    progress: Any,
    callbacks: list[Any],
) -> Path:
    from rsquant.errors import ConfigError

    unfit = sorted(given.keys() - _ON_RESUME)
    if unfit or others:
        what = f"--{unfit[0].replace('_', '-')}" if unfit else "--config, --name, --exist-ok"
        raise ConfigError(
            f"--resume continues a run as it was configured and cannot be combined with {what}; "
            "leave it out, or start a new run"
        )
    folder, note = group.of_first(lambda: _run_to_continue(resume))
    run = Path(folder)
    if note:
        progress.echo(f"run    {run} ({note})")
    from rsquant.train import training

    with progress.shown():
        run, result = training.resume(
            run, progress, progress.echo, data=data, callbacks=callbacks, group=group, **given
        )
    _finish(group, run, result, progress)
    return run


def _run_to_continue(resume: str) -> tuple[str, str]:
    """The folder that --resume means, and a note where that may surprise."""
    from rsquant import runs
    from rsquant.errors import ConfigError

    newest = runs.newest()
    if resume == "" and newest is None:
        raise ConfigError("--resume: there is no run under runs/ to continue")
    run, note = runs.folder(resume) if resume or newest is None else (newest, "")
    return str(run), note


def _write_metrics(json_file: Path | None, run: Path, progress: Any) -> None:
    if json_file is None:
        return
    from rsquant.machine import write_json
    from rsquant.train.metrics import as_numbers, read_metrics

    write_json(json_file, [{"run": str(run), **as_numbers(row)} for row in read_metrics(run)])
    progress.echo(f"written {json_file}")


def _finish(group: Any, run: Path, result: Any, progress: Any) -> None:
    """What came out; nothing where there was nothing left to train."""
    if result is None or not group.is_first:
        return
    from rsquant import runs
    from rsquant.models.checkpoint import load
    from rsquant.packing.obstacle import obstacle
    from rsquant.report.plots import training_curves

    picture = training_curves(run)
    main = result.task.main
    values = {size: metric.figures()[main.name] for size, metric in result.sizes.items()}
    table = ", ".join(f"{size}: {value:.1f} {main.unit}" for size, value in values.items())
    progress.echo(f"{main.title} by resolution  {table}")
    progress.echo(f"run    {run}  (metrics.csv, log.txt, {picture.name}, best and last checkpoint)")
    name = shlex.quote(str(run))
    suggested = [f"rsquant eval {name}", f"rsquant export {name} --all", f"rsquant bench {name}"]
    if not obstacle(load(run / runs.BEST)):
        suggested.insert(1, f"rsquant pack {name}")
    progress.echo(f"next   {'   '.join(suggested[:3])}")
    for line in suggested[3:]:
        progress.echo(f"       {line}")
