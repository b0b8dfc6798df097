"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

# More threads than this are a slip; starting them takes the machine's memory and ends in an abort.
MOST_THREADS = 1024


def processors(root: Path = Path("/")) -> int:
    """Processors that this process may use: by affinity, and by a container's quota of time.

    A quota of 1.5 processors counts as 2: with one thread a third of it would go unused.

    Args:
        root: where /proc and /sys/fs/cgroup are.
    """
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    quota = min(_quotas(root), default=math.inf)
    return max(1, found if quota == math.inf else min(found, math.ceil(quota)))


def _quotas(root: Path) -> list[float]:
    """Limits in processors of the control groups this process is in, and of those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup"
        tops = [base] if not controllers else [base / controllers, base / "cpu"]
        for top in tops:
            group = top / path.strip("/")
            # A container sees its own group as the top one, under whatever name.
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top):
                    break
                found += _quota(folder)
            found += _quota(top)
    return found


def _quota(folder: Path) -> list[float]:
    """The limit of one group, version 2 or 1; none where it has none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        limit = float(quota) / float(period)  # "max", or -1, where there is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return []
    return [limit] if limit > 0 else []
