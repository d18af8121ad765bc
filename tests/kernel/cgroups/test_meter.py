"""Statistic files that stay open: right after a cgroup was made again, closed when it is forgotten, bounded in number."""

from __future__ import annotations

import os
import resource

import pytest

from orlop.kernel.cgroupfs import Hierarchy, discover_mounted
from orlop.oci.cgroups.meter import Kept, Meters, Source
from orlop.oci.cgroups.stats import Group
from orlop.oci.cgroups.v1 import V1Driver
from orlop.specs.pod import LinuxResources
from tests.kernel.cgroups.conftest import TOP, Start

pytestmark = pytest.mark.kernel
ID = "e" * 64
FILE = "cgroup.procs"


@pytest.fixture
def hierarchy():
    mounted = [each for each in discover_mounted() if each.version == 1]
    if not mounted:
        pytest.skip("this host has no v1 hierarchy")
    opened = Hierarchy(mounted[0])
    yield opened
    for name in (TOP, f"{TOP}-2", f"{TOP}-3"):
        if opened.exists(name):
            opened.rmdir(name)
    opened.close()


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_are_opened_once_and_closed_when_forgotten(hierarchy):
    hierarchy.mkdir(TOP)
    meters = Meters(
        [Source(hierarchy=hierarchy, file=FILE), Source(hierarchy=hierarchy, file="notify_on_nothing", optional=True)]
    )
    before = fds()
    for _ in range(3):
        assert meters.read(TOP, 2) == ["", None]
        assert fds() == before + 1
    meters.forget(TOP)
    assert (fds(), len(meters)) == (before, 0)


def test_a_cgroup_that_is_gone_says_so_and_one_made_again_is_read(hierarchy):
    meters = Meters([Source(hierarchy=hierarchy, file=FILE)])
    before = fds()
    with pytest.raises(FileNotFoundError, match=TOP):
        meters.read(TOP, 1)
    hierarchy.mkdir(TOP)
    assert meters.read(TOP, 1) == [""]
    hierarchy.rmdir(TOP)
    with pytest.raises(FileNotFoundError, match=FILE):
        meters.read(TOP, 1)
    assert (fds(), len(meters)) == (before, 0)
    hierarchy.mkdir(TOP)
    meters.read(TOP, 1)
    hierarchy.rmdir(TOP)
    hierarchy.mkdir(TOP)
    assert meters.read(TOP, 1) == [""]
    meters.close()
    assert fds() == before


def test_what_has_not_changed_is_not_parsed_again(hierarchy):
    hierarchy.mkdir(TOP)
    parsed = []
    meters = Meters(
        [Source(hierarchy=hierarchy, file="notify_on_release", parse=lambda text: parsed.append(text) or {text})]
    )
    kept: Kept[object] = Kept()
    first = meters.read(TOP, 1)
    made = kept.of(TOP, first, object)
    second = meters.read(TOP, 1)
    assert second[0] is first[0]
    assert kept.of(TOP, second, object) is made
    hierarchy.write(TOP, "notify_on_release", "1")
    third = meters.read(TOP, 1)
    assert third == [{"1\n"}]
    assert kept.of(TOP, third, object) is not made
    assert parsed == ["0\n", "1\n"]
    meters.close()


def test_beyond_the_bound_the_oldest_gives_its_fds_back(hierarchy):
    meters = Meters([Source(hierarchy=hierarchy, file=FILE)], most_fds=2)
    paths = [TOP, f"{TOP}-2", f"{TOP}-3"]
    before = fds()
    for path in paths:
        hierarchy.mkdir(path)
    for _ in range(2):
        for path in paths:
            assert meters.read(path, 1) == [""]
            assert fds() <= before + 2
    meters.close()
    assert fds() == before


def test_without_fds_the_others_give_theirs_back(hierarchy):
    meters = Meters([Source(hierarchy=hierarchy, file=FILE)])
    for path in (TOP, f"{TOP}-2"):
        hierarchy.mkdir(path)
    meters.read(TOP, 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The next fd would be the first free one: forbid all from there on.
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        assert meters.read(f"{TOP}-2", 1) == [""]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(meters) == 1
    meters.close()


def test_everything_that_this_host_counts_is_counted(v1: V1Driver, start: Start) -> None:
    groups = v1.metric_groups()
    assert {Group.CPU, Group.CFS, Group.MEMORY, Group.THREADS} <= groups
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, LinuxResources(memory_limit=200 << 20, cpu_period=10000, cpu_quota=2000))
    burn = "import sys\nfor i in range(2000000): pass\nprint('ready', flush=True)\nimport time; time.sleep(1000)"
    process = start(cgroup, "python3", "-I", "-S", "-c", burn)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    seen = v1.container_metrics(cgroup.path)
    assert seen.cpu_user is not None
    assert seen.cpu_user > 0
    assert seen.cfs_throttled_periods is not None
    assert seen.cfs_throttled_periods > 0
    assert seen.memory_max_usage is not None
    assert seen.memory_max_usage >= (seen.stats.memory_usage or 0) > 0
    assert (seen.threads, seen.threads_max) == (1, 0)
    assert seen.own_page_faults > 0
    assert (seen.stats.cpu_psi is not None) == (Group.PRESSURE in groups)
    cgroup.close()
    v1.kill_all(cgroup.path)
    process.wait()
    assert v1.remove_container(cgroup.path)
    v1.remove_sandbox(TOP)
