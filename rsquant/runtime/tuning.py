"""The file of what was measured once: which kernel or tile is fastest, of each back end.

The file is `tuning.json` in $RSQUANT_CACHE, or in rsquant/ under the user's cache folder. It holds
choices only: losing or damaging it costs the time to measure again. Where there is no such folder,
or none that can be written, choices last as long as the session.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

CACHE = "RSQUANT_CACHE"

# What a choice depends on -> what was fastest.
Choices = dict[str, str]


def cache_file() -> Path | None:
    """Where the choices are kept; None where there is no home and no variable names a folder."""
    folder = os.environ.get(CACHE)
    if folder:
        return Path(folder) / "tuning.json"
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # as in containers: neither HOME nor an entry in passwd
        return None
    return Path(base) / "rsquant" / "tuning.json"


def read() -> Choices:
    """All choices known; empty where there is no file, or one that cannot be read."""
    path = cache_file()
    if path is None:
        return {}
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str)}


def write(choices: Mapping[str, str]) -> None:
    """Add choices to the file. Where it cannot be written, tuning is repeated: that is no error."""
    path = cache_file()
    if path is None:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({**read(), **choices}, indent=0, sort_keys=True))
            temporary.replace(path)
        finally:  # half a file where the disk is full
            temporary.unlink(missing_ok=True)
