"""A study: what a YAML file of experiments says, checked. docs/studies.md describes the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsquant.config import RunConfig, from_dict, read_settings
from rsquant.errors import ConfigError
from rsquant.recipes import paper_recipe
from rsquant.settings import bits_names, checked_bits
from rsquant.tasks import by_name
from rsquant.text import brief, did_you_mean
from rsquant.train.configuration import Part, combined, network_of

# What stands in an experiment's settings for each of the values that it is made for.
EACH = "EACH"
SIZES = "sizes"
PLOTS = ("none", "lines", "gain")
_SECTIONS = ("model", "data", "train")
# Of the store, beside the folders of tables, which are called as the files are.
_FOLDERS = ("runs", "configs", "locks")
# More runs than this are a slip of a list.
MAX_RUNS = 10_000
_NAME = re.compile(r"[\w.+-]{1,60}", re.ASCII)
# Of columns, how runs are chosen and measured.
_OF_RUNS = ("value", "untrained", "widths", "bits")

Settings = dict[str, dict[str, Any]]
Value = int | float | str


@dataclass(frozen=True)
class Experiment:
    """Settings, and for which values a run each is made.

    Attributes:
        settings: sections of a run's configuration that differ from the study's; the text EACH in
            them stands for the value.
        each: values; None: one run. ("sizes",) stands for the group's resolutions.
    """

    settings: Settings
    each: tuple[Value, ...] | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table: of an experiment, or published.

    Attributes:
        of: the experiment; None for a column of published figures alone.
        value: of an experiment made for several values, the one for all rows; None: each row's.
        untrained: measure at sizes that the network was not trained at, too.
        published: figures of the source by group, a text per row.
        widths: of an experiment with several widths, the one of each row; none: all channels.
        bits: of an experiment with several bits, the ones of all rows; None: the most.
    """

    title: str
    of: str | None = None
    value: Value | None = None
    untrained: bool = False
    published: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    widths: tuple[float, ...] = ()
    bits: str | None = None


@dataclass(frozen=True)
class Table:
    """One table or picture.

    Attributes:
        rows: (title, value) each; None: the group's resolutions.
        at: the size that all rows are measured at; None: each row's value is its size.
        baseline: title of the column that gains are over; None: no gains.
        plot: "lines" (accuracy by row), "gain" (over the baseline) or "none".
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, Value], ...] | None = None
    at: int | None = None
    figures: tuple[str, ...] = ("top1",)
    baseline: str | None = None
    plot: str = "none"


@dataclass(frozen=True)
class Study:
    """What a file says.

    Attributes:
        config: of every run, without what group and experiment change.
        groups: settings of each; every experiment is run in every group.
    """

    name: str
    title: str
    config: Settings
    seeds: tuple[int, ...]
    groups: Mapping[str, Settings]
    experiments: Mapping[str, Experiment]
    tables: tuple[Table, ...]
    note: str = ""

    def group_config(self, group: str) -> RunConfig:
        """The configuration of a group before its experiments."""
        return configured(self.config, self.groups[group], where=self.name)

    def values(self, group: str, experiment: str) -> tuple[Value | None, ...]:
        """The values that an experiment has runs for; (None,) for a single run."""
        each = self.experiments[experiment].each
        if each == (SIZES,):
            return self.group_config(group).model.resolutions
        return (None,) if each is None else each

    def rows(self, table: Table, group: str) -> tuple[tuple[str, Value], ...]:
        """(title, value) of each row."""
        if table.rows is not None:
            return table.rows
        return tuple((str(s), s) for s in self.group_config(group).model.resolutions)


def configured(*parts: Settings, where: str) -> RunConfig:
    """The published recipe of the network that is meant, changed by each part in turn.

    What a later part leaves without effect is left out, see `train.configuration`.
    """
    merged: Settings = {}
    for part in parts:
        for section, values in part.items():
            merged[section] = {**merged.get(section, {}), **values}
    from_dict(merged, where)  # names a wrong key before the recipe is looked up by it
    base = paper_recipe(*network_of(merged.get("model", {})))
    return combined(base, [Part(where, part) for part in parts])[0]


def substituted(settings: Any, value: Value | None) -> Any:
    """Settings with a value in the place of every EACH."""
    if isinstance(settings, dict):
        return {key: substituted(one, value) for key, one in settings.items()}
    if isinstance(settings, list):
        return [substituted(one, value) for one in settings]
    return value if settings == EACH and value is not None else settings


def read_study(path: Path) -> Study:
    """Read a study. Raises ConfigError, one line, for anything in it that cannot be meant."""
    raw = read_settings(path)
    where = str(path)
    if path.stem in _FOLDERS:
        raise ConfigError(f"{where}: the store of runs has a folder of this name; rename the file")
    keys = ("title", "note", "config", "seeds", "groups", "experiments", "tables")
    _check_keys(raw, keys, where)
    experiments = {
        _name(name, f"{where}: experiments"): _experiment(one, f"{where}: experiments.{name}")
        for name, one in _mapping(raw.get("experiments"), f"{where}: experiments").items()
    }
    groups = {
        _text(name, f"{where}: groups", empty="groups" not in raw): _settings(
            {} if one is None else one, f"{where}: groups.{name}"
        )
        for name, one in _mapping(raw.get("groups", {"": {}}), f"{where}: groups").items()
    }
    study = Study(
        path.stem,
        _text(raw.get("title", path.stem), f"{where}: title"),
        _settings({} if raw.get("config") is None else raw["config"], f"{where}: config"),
        _seeds(raw.get("seeds", [0]), where),
        groups,
        experiments,
        tuple(
            _table(one, path.stem, number, f"{where}: table {number + 1}")
            for number, one in enumerate(_list(raw.get("tables"), f"{where}: tables"))
        ),
        _text(raw.get("note", ""), f"{where}: note", empty=True),
    )
    _check(study, where)
    return study


def _check(study: Study, where: str) -> None:
    """Every setting, and every name that a table uses."""
    runs, sources = 0, set()
    for group in study.groups:
        for name, experiment in study.experiments.items():
            for value in study.values(group, name):
                runs += len(study.seeds)
                label = f"{where}: experiments.{name}"
                settings = substituted(experiment.settings, value)
                made = configured(study.config, study.groups[group], settings, where=label)
                sources.add(made.data.source)
    if len(sources) > 1:
        raise ConfigError(
            f"{where}: data.source: all runs of a study have one data set, got "
            f"{', '.join(sorted(sources))}; make a study of each"
        )
    if runs > MAX_RUNS:
        raise ConfigError(f"{where}: has {runs:,} runs, more than {MAX_RUNS:,}")
    task = by_name(study.group_config(next(iter(study.groups))).model.task)
    known = [figure.name for figure in task.figures]
    names = [table.name for table in study.tables]
    for table in study.tables:
        if names.count(table.name) > 1:
            raise ConfigError(f"{where}: two tables are called '{table.name}'; rename one")
        for name in table.figures:
            if name not in known:
                raise ConfigError(
                    f"{where}: {table.name}: figures: unknown figure '{name}'; "
                    f"{did_you_mean(name, known)}known: {', '.join(known)}"
                )
        titles = [column.title for column in table.columns]
        if len(set(titles)) < len(titles):
            raise ConfigError(f"{where}: {table.name}: two columns have the same title")
        if table.baseline is not None and table.baseline not in titles:
            raise ConfigError(
                f"{where}: {table.name}: baseline: no column '{table.baseline}'; "
                f"{did_you_mean(table.baseline, titles)}columns: {', '.join(titles)}"
            )
        if any(column.title == table.baseline and column.of is None for column in table.columns):
            raise ConfigError(
                f"{where}: {table.name}: baseline: '{table.baseline}' has published figures alone, "
                "over which there are no gains of equal seeds; name a column with `of`"
            )
        if table.plot == "gain" and table.baseline is None:
            raise ConfigError(f"{where}: {table.name}: plot: gain needs a baseline")
        for column in table.columns:
            _check_column(study, table, column, f"{where}: {table.name}: column '{column.title}'")


def _check_column(study: Study, table: Table, column: Column, where: str) -> None:
    if column.of is not None and column.of not in study.experiments:
        raise ConfigError(
            f"{where}: unknown experiment '{column.of}'; "
            f"{did_you_mean(column.of, study.experiments)}known: {', '.join(study.experiments)}"
        )
    for group, figures in column.published.items():
        if group not in study.groups:
            raise ConfigError(
                f"{where}: published: unknown group '{group}'; "
                f"{did_you_mean(group, study.groups)}known: {', '.join(study.groups)}"
            )
        if len(figures) != (rows := len(study.rows(table, group))):
            raise ConfigError(f"{where}: published: {len(figures)} figures for {rows} rows")
    for group in study.groups:
        for title, value in study.rows(table, group):
            sized = isinstance(value, int) and 1 <= value <= 4096
            if table.at is None and not sized:
                raise ConfigError(f"{where}: row '{title}' is no size; say at which with `at`")
        if column.of is None:
            continue
        if column.widths:
            _check_widths(study, table, group, column, where)
        if column.bits is not None:
            _check_bits(study, group, column, where)
        known = study.values(group, column.of)
        if column.value is not None and column.value not in known:
            raise ConfigError(
                f"{where}: {column.of} has no run for {column.value}; it has "
                f"{', '.join(map(str, known)) if known != (None,) else 'one run for all'}"
            )


def _check_widths(study: Study, table: Table, group: str, column: Column, where: str) -> None:
    assert column.of is not None
    if len(column.widths) != (rows := len(study.rows(table, group))):
        raise ConfigError(f"{where}: widths: {len(column.widths)} widths for {rows} rows")
    for value in study.values(group, column.of):
        settings = substituted(study.experiments[column.of].settings, value)
        trained = configured(study.config, study.groups[group], settings, where=where).model.widths
        for width in column.widths:
            if width not in trained:
                raise ConfigError(
                    f"{where}: widths: {column.of} has no width {width:g}; it has "
                    f"{', '.join(f'{one:g}' for one in trained) or 'all channels alone'}"
                )


def _check_bits(study: Study, group: str, column: Column, where: str) -> None:
    assert column.of is not None and column.bits is not None
    for value in study.values(group, column.of):
        settings = substituted(study.experiments[column.of].settings, value)
        model = configured(study.config, study.groups[group], settings, where=where).model
        trained = [bits_names([pair]) for pair in checked_bits(model.bits)]
        if column.bits not in trained:
            raise ConfigError(
                f"{where}: bits: {column.of} has no bits {column.bits}; it has "
                f"{', '.join(trained) or 'one pair of bits alone'}"
            )


def _experiment(raw: Any, where: str) -> Experiment:
    raw = _mapping({} if raw is None else raw, where, empty=True)
    _check_keys(raw, ("each", *_SECTIONS), where)
    each = raw.get("each")
    settings = _settings({k: v for k, v in raw.items() if k != "each"}, where)
    if each is None:
        return Experiment(settings)
    names = [SIZES] if each == SIZES else _list(each, f"{where}: each")
    values = tuple(_value(one, f"{where}: each") for one in names)
    if len(set(values)) < len(values):
        raise ConfigError(f"{where}: each: a value is there twice")
    if settings == substituted(settings, ""):
        raise ConfigError(
            f"{where}: each: no setting is {EACH}, so all its runs would be the same; put {EACH} "
            "where the value belongs, or leave out each"
        )
    return Experiment(settings, values)


def _table(raw: Any, stem: str, number: int, where: str) -> Table:
    raw = _mapping(raw, where)
    keys = ("name", "title", "rows", "at", "figures", "baseline", "columns", "plot")
    _check_keys(raw, keys, where)
    name = _name(raw.get("name", stem if number == 0 else f"{stem}_{number + 1}"), where)
    rows = raw.get("rows", SIZES)
    if isinstance(rows, dict):
        named = _mapping(rows, f"{where}: rows")
        pairs = [
            (_text(t, f"{where}: rows"), _value(v, f"{where}: rows")) for t, v in named.items()
        ]
    elif rows != SIZES:
        values = [_value(one, f"{where}: rows") for one in _list(rows, f"{where}: rows")]
        pairs = [(str(value), value) for value in values]
    else:
        pairs = []
    at, plot = raw.get("at"), raw.get("plot", "none")
    if at is not None and (type(at) is not int or not 1 <= at <= 4096):
        raise ConfigError(f"{where}: at: must be a size in pixels, got {brief(at)}")
    if plot not in PLOTS:
        raise ConfigError(f"{where}: plot: must be one of {', '.join(PLOTS)}, got {brief(plot)}")
    figures = _list(raw.get("figures", ["top1"]), f"{where}: figures")
    baseline = raw.get("baseline")
    return Table(
        name,
        _text(raw.get("title", name), f"{where}: title"),
        tuple(
            _column(one, f"{where}: columns")
            for one in _list(raw.get("columns"), f"{where}: columns")
        ),
        tuple(pairs) if rows != SIZES else None,
        at,
        tuple(_text(one, f"{where}: figures") for one in figures),
        None if baseline is None else _text(baseline, f"{where}: baseline"),
        plot,
    )


def _column(raw: Any, where: str) -> Column:
    raw = _mapping(raw, where)
    _check_keys(raw, ("title", "of", "value", "untrained", "published", "widths", "bits"), where)
    of, published = raw.get("of"), raw.get("published", {})
    if of is None and not published:
        raise ConfigError(f"{where}: a column needs `of`, an experiment, or `published`, figures")
    title = _text(raw.get("title", of or "published"), f"{where}: title")
    where = f"{where}: '{title}'"
    for key in _OF_RUNS:
        if of is None and key in raw:
            raise ConfigError(
                f"{where}: {key}: is of an experiment's runs, and this column has none; name its "
                f"experiment with `of`, or leave out {key}"
            )
    if isinstance(published, list):
        published = {"": published}
    figures = {
        _text(group, where, empty=True): tuple(
            "" if one is None else str(one) for one in _list(row, f"{where}: published")
        )
        for group, row in _mapping(published, f"{where}: published", empty=True).items()
    }
    untrained, value = raw.get("untrained", False), raw.get("value")
    if not isinstance(untrained, bool):
        raise ConfigError(f"{where}: untrained: must be true or false, got {brief(untrained)}")
    return Column(
        title,
        None if of is None else _text(of, f"{where}: of"),
        None if value is None else _value(value, f"{where}: value"),
        untrained or value is not None,
        figures,
        _shares(raw["widths"], where) if "widths" in raw else (),
        _text(raw["bits"], f"{where}: bits") if "bits" in raw else None,
    )


def _shares(raw: Any, where: str) -> tuple[float, ...]:
    """Widths of rows, in any order."""
    shares = _list(raw, f"{where}: widths")
    if any(type(one) not in (int, float) or not 0 < one <= 1 for one in shares):
        raise ConfigError(f"{where}: widths: must be above 0 to 1, got {brief(raw)}")
    return tuple(map(float, shares))


def _seeds(raw: Any, where: str) -> tuple[int, ...]:
    seeds = tuple(_list(raw, f"{where}: seeds"))
    if any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: seeds: must be different whole numbers, got {brief(raw)}")
    return seeds


def _settings(raw: Any, where: str) -> Settings:
    raw = _mapping(raw, where, empty=True)
    _check_keys(raw, _SECTIONS, where)
    if isinstance(raw.get("train"), dict) and "seed" in raw["train"]:
        raise ConfigError(
            f"{where}: train.seed: the study's seeds are of all runs; leave it out here"
        )
    return {key: dict(_mapping(one, f"{where}: {key}", empty=True)) for key, one in raw.items()}


def _check_keys(raw: Mapping[Any, Any], valid: Sequence[str], where: str) -> None:
    for key in raw:
        if key not in valid:
            hint = did_you_mean(key, valid).rstrip() or f"valid: {', '.join(valid)}"
            raise ConfigError(f"{where}: unknown key {brief(key)}; {hint}")


def _mapping(raw: Any, where: str, empty: bool = False) -> dict[Any, Any]:
    if not isinstance(raw, dict) or not (raw or empty):
        raise ConfigError(f"{where}: must hold keys, got {brief(raw)}")
    return raw


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{where}: must be a list of one or more, got {brief(raw)}")
    return raw


def _name(raw: Any, where: str) -> str:
    if not isinstance(raw, str) or not _NAME.fullmatch(raw) or raw.startswith("."):
        raise ConfigError(
            f"{where}: names must be letters, digits and .+-_, at most 60, got {brief(raw)}"
        )
    return raw


def _text(raw: Any, where: str, empty: bool = False) -> str:
    if not isinstance(raw, str) or not (raw or empty):
        raise ConfigError(f"{where}: must be text, got {brief(raw)}")
    return raw


def _value(raw: Any, where: str) -> Value:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ConfigError(f"{where}: must be a number or text, got {brief(raw)}")
    return raw
