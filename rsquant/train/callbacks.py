"""What else hears of a training: loggers of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsquant.errors import ConfigError
from rsquant.text import brief, did_you_mean

_BASE = "rsquant.train.callbacks.Callback"


class Callback:
    """Hears of a run; subclasses define what they want to hear.

    Calls come from the process that writes the run (rank 0 of several), between steps. They may
    take their time, but change nothing. An error that one raises ends the training like an error of
    its own: the state that was saved last stays.
    """

    def on_start(self, run: Path, config: Mapping[str, Any]) -> None:
        """Training begins, or goes on.

        Args:
            run: the run folder.
            config: as its config.yaml has it: sections of keys.
        """

    def on_step(self, epoch: int, step: int, figures: Mapping[str, float]) -> None:
        """A step is done.

        Args:
            epoch: of this step, from 1. step: done in this epoch, from 1.
            figures: means over its batch: loss and its parts, the task's figures by setting.
        """

    def on_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """An epoch is done and validated; `row` as metrics.csv has it."""

    def on_end(self, finished: bool) -> None:
        """Training ends; `finished`: at its last epoch, and not by a stop or an error."""


class Callbacks(Callback):
    """Several, in their order; all hear of the end, whatever one of them raises."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        for one in callbacks:
            if not isinstance(one, Callback):
                raise ConfigError(
                    f"callbacks: must be objects of subclasses of Callback, got {brief(one)}"
                )
        self.all = tuple(callbacks)

    def on_start(self, run: Path, config: Mapping[str, Any]) -> None:
        for one in self.all:
            one.on_start(run, config)

    def on_step(self, epoch: int, step: int, figures: Mapping[str, float]) -> None:
        for one in self.all:
            one.on_step(epoch, step, figures)

    def on_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        for one in self.all:
            one.on_epoch(epoch, row)

    def on_end(self, finished: bool) -> None:
        first: Exception | None = None
        for one in self.all:
            try:
                one.on_end(finished)
            except Exception as error:
                first = first or error
        if first is not None:
            raise first


def named_callback(name: str) -> Callback:
    """The callback that "module:name" means: a subclass of Callback without arguments, or one.

    Raises:
        ConfigError: there is no such module or name, or it is something else.
    """
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute) or module.startswith("."):
        raise ConfigError(
            f"callback: must be MODULE:NAME, as my_logger:MyLogger, got {brief(name)}"
        )
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"callback: {module} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from error
    except Exception as error:  # whatever a user's module does
        raise ConfigError(
            f"callback: {module} cannot be imported ({_said(error)}); correct it: importing it in "
            "Python shows where"
        ) from error
    if not hasattr(imported, attribute):
        near = did_you_mean(attribute, [n for n in vars(imported) if not n.startswith("_")])
        raise ConfigError(
            f"callback: {module} has no {attribute}; {near}name a subclass of {_BASE} in it"
        )
    found: Any = getattr(imported, attribute)
    if isinstance(found, Callback):
        return found
    wrong = f"callback: {name} is no subclass of {_BASE}; name one, or an object of one"
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Callback)):
        raise ConfigError(wrong)
    try:
        made = found()
    except Exception as error:  # whatever a user's class does
        raise ConfigError(
            f"callback: {name} cannot be made without arguments ({_said(error)}); give them "
            "defaults, or name an object in place of the class"
        ) from error
    if not isinstance(made, Callback):
        raise ConfigError(wrong)
    return made


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
