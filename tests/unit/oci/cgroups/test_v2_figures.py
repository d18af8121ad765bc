"""Figures of the unified hierarchy, read from files as a v2 kernel writes them: hosts with v1 controllers have none of these files."""

from pathlib import Path

import pytest

from orlop.kernel.cgroupfs import Hierarchy, MountedHierarchy
from orlop.oci.cgroups.stats import Group
from orlop.oci.cgroups.v2_figures import V2Figures

PRESSURE = (
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n"
)
FILES = {
    "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 9\nnr_throttled 4\nthrottled_usec 5000000\n",
    "memory.current": "4096000\n",
    "memory.stat": "anon 1000\nfile 2000\nkernel 300\nfile_mapped 40\ninactive_file 96000\npgfault 7\npgmajfault 2\n",
    "memory.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\noom_group_kill 0\n",
    "memory.swap.current": "512\n",
    "memory.swap.max": "1024\n",
    "memory.peak": "5000000\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
    "pids.current": "3\n",
    "pids.max": "100\n",
    "cpu.pressure": PRESSURE,
    "memory.pressure": PRESSURE,
    "io.pressure": PRESSURE,
    "hugetlb.2MB.current": "2097152\n",
}


def figures(root: Path, *, controllers: str = "cpu io memory pids hugetlb", without: tuple[str, ...] = ()) -> V2Figures:
    (root / "cgroup.controllers").write_text(controllers)
    (root / "pod").mkdir()
    for name, text in FILES.items():
        if name not in without:
            (root / "pod" / name).write_text(text)
    return V2Figures(Hierarchy(MountedHierarchy(version=2, controllers=(), mountpoint=str(root))))


@pytest.fixture(autouse=True)
def _sizes(monkeypatch):
    monkeypatch.setattr("orlop.oci.cgroups.v2_figures.hugepage_sizes", lambda: ("2MB", "1GB"))


def test_everything(tmp_path):
    read = figures(tmp_path)
    assert read.groups("/pod") == frozenset(Group) - {Group.HUGEPAGES_PEAK}
    stats = read.stats("/pod")
    assert (stats.cpu_usage, stats.memory_usage, stats.working_set) == (3_000_000_000, 4096000, 4000000)
    assert (stats.memory_rss, stats.memory_limit, stats.page_faults, stats.major_page_faults) == (1000, None, 7, 2)
    assert (stats.swap_usage, stats.swap_limit, stats.pids, stats.oom_kills) == (512, 1024, 3, 1)
    assert (stats.io_read_bytes, stats.io_write_bytes) == (10, 20)
    assert stats.io_psi is not None
    assert (stats.io_psi.some.total, stats.io_psi.full.total) == (2_000_000_000, 1_000_000_000)
    metrics = read.metrics("/pod")
    assert (metrics.cpu_user, metrics.cpu_system) == (2_000_000_000, 1_000_000_000)
    assert (metrics.cfs_periods, metrics.cfs_throttled_periods, metrics.cfs_throttled) == (9, 4, 5_000_000_000)
    assert (metrics.memory_cache, metrics.memory_mapped, metrics.memory_kernel) == (2000, 40, 300)
    assert (metrics.memory_max_usage, metrics.memory_failures) == (5000000, 6)
    assert (metrics.threads, metrics.threads_max) == (3, 100)
    assert [(each.device, each.operation, each.count) for each in metrics.io_requests][:2] == [
        ("8:0", "Read", 1),
        ("8:0", "Write", 2),
    ]
    assert [(each.page_size, each.usage, each.max_usage) for each in metrics.hugepages] == [("2MB", 2097152, None)]
    read.meters.close()


def test_the_same_object_until_a_file_changes(tmp_path):
    read = figures(tmp_path)
    first = read.metrics("/pod")
    assert read.metrics("/pod") is first
    (tmp_path / "pod" / "memory.current").write_text("1\n")
    changed = read.metrics("/pod")
    assert changed.stats.memory_usage == 1
    assert changed.cpu_user == first.cpu_user
    read.forget("/pod")
    assert len(read.meters) == 0


def test_what_an_older_kernel_does_not_have_is_none(tmp_path):
    read = figures(
        tmp_path,
        controllers="cpu memory",
        without=(
            "memory.peak",
            "memory.swap.current",
            "memory.swap.max",
            "cpu.pressure",
            "memory.pressure",
            "io.pressure",
        ),
    )
    assert read.groups("/pod") == {Group.CPU, Group.CFS, Group.MEMORY, Group.KERNEL_MEMORY}
    metrics = read.metrics("/pod")
    assert (metrics.memory_max_usage, metrics.stats.swap_usage, metrics.stats.cpu_psi) == (None, None, None)
    assert (metrics.threads, metrics.io_bytes, metrics.hugepages) == (None, (), ())
    read.meters.close()


def test_a_cgroup_that_is_gone(tmp_path):
    read = figures(tmp_path)
    for each in (read.stats, read.metrics, read.groups):
        with pytest.raises(FileNotFoundError, match="gone"):
            each("/gone")
