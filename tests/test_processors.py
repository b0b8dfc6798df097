"""A container's quota of processor time counts, whichever version of control groups it has."""

import os

import pytest

from rsquant import processors as module
from rsquant.machine import describe
from rsquant.processors import processors


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(cgroup, {file: text}) -> a root with these, on a machine of 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def make(groups, files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    "groups,files,expected",
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 16),
        (
            "0::/a/b\n",
            {
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            3,
        ),
        ("0::/docker/12\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/x\n2:memory:/x\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "500000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        (
            "4:cpu,cpuacct:/docker/12\n",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            6,
        ),
        (
            "4:cpu:/\n",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            16,
        ),
        ("4:cpuset:/\n", {"sys/fs/cgroup/cpuset/cpu.max": "100000 100000"}, 16),
        ("nonsense\n", {"sys/fs/cgroup/cpu.max": "none"}, 16),
    ],
)
def test_the_smallest_limit_counts(machine, groups, files, expected):
    assert processors(machine(groups, files)) == expected


def test_a_system_without_groups_has_what_the_process_may_use(tmp_path):
    assert processors(tmp_path) == len(os.sched_getaffinity(0))


def test_the_cores_of_a_measurement_are_those(monkeypatch):
    monkeypatch.setattr(module, "_quotas", lambda root: [0.5])
    assert describe()["cores"] == 1
