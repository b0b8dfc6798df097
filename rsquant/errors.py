"""Errors a user can cause. Each message says who, what was required, what was got, what to do.

Parameters to be changed are named as in Python, in backticks: `lr`, `exist_ok=True`. The command
line shows its own flags in their place (`rsquant.cli.flags`), so no message here has a flag.
"""

from __future__ import annotations

from rsquant.text import one_line


class RsquantError(Exception):
    """Base of every error the command line reports as one line with exit status 2.

    Its message is one printable line of limited length, whatever names and values are in it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class ConfigError(RsquantError):
    """A setting, flag, architecture name or bit width that cannot be used."""


class MissingPackage(RsquantError, ImportError):
    """A package that is not installed, and the extra of rsquant that brings it.

    Attributes:
        modules: the names that could not be imported.
    """

    def __init__(self, message: object = "", modules: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.modules = modules


class ModelError(RsquantError):
    """A network that cannot be built, converted, or run at the size asked for."""


class DataError(RsquantError):
    """A data source that is missing, inconsistent or mostly unreadable."""


class CheckpointError(RsquantError):
    """A checkpoint or run folder that is missing, damaged, or of another network."""


class ExportError(RsquantError):
    """An export that could not be made, or whose parity check failed."""


class PackError(RsquantError):
    """A network that cannot be packed."""


class PackedFileError(RsquantError):
    """A packed file that is missing, damaged, or of another kind."""


class PeerError(RsquantError):
    """Another process that trains with this one is gone; what went wrong, it knows."""


class ImageRangeWarning(UserWarning):
    """Float images whose values look like pixels that nobody normalised."""
