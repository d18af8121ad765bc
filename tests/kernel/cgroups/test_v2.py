"""The v2 driver on the unified hierarchy; on a v1 host that has no controllers, or only hugetlb, and the rest is real all the same."""

from __future__ import annotations

import pytest

from orlop.base.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.kernel.bpf import attached_device_programs
from orlop.oci.cgroups.resources import ALLOW_ALL
from orlop.oci.cgroups.v2 import V2Driver
from orlop.specs.pod import HugepageLimit, LinuxResources
from orlop.specs.runtime import DeviceCgroup
from tests.kernel.cgroups.conftest import DEFAULT, TOP, Start, files, left_over, make_v2

pytestmark = pytest.mark.kernel
ID = "ab" * 32
NONE = LinuxResources()


def test_life_of_a_container(v2: V2Driver, start: Start) -> None:
    assert v2.prepare_sandbox(f"{TOP}/pod", "s1")
    cgroup = v2.create_container(f"{TOP}/pod", ID, NONE)
    assert cgroup.version == 2
    assert cgroup.join_fds == (cgroup.clone_fd,)
    main = start(cgroup, "sleep", "1000")
    session = v2.create_exec(cgroup.path, "e1")
    command = start(session, "sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000")
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    while len(v2.pids(cgroup.path)) < 4:
        pass
    stats = v2.container_stats(cgroup.path)
    assert stats.cpu_usage > 0
    assert stats.pids == 4
    v2.kill_all(session.path)
    assert command.wait() == -9
    while not v2.remove_exec(cgroup.path, "e1"):
        pass
    while not v2.freeze(cgroup.path):
        pass
    v2.thaw(cgroup.path)
    assert main.poll() is None
    session.close()
    cgroup.close()
    v2.remove_container(cgroup.path)
    assert main.wait() == -9
    while v2.sweep():
        pass
    v2.remove_sandbox(f"{TOP}/pod")
    assert left_over() == []


def test_devices(v2: V2Driver, start: Start) -> None:
    def opens(name: str, *devices: DeviceCgroup) -> bool:
        cgroup = v2.create_container(TOP, ID, NONE, *([devices] if devices else []))
        assert len(attached_device_programs(cgroup.clone_fd)) == (devices != ALLOW_ALL)
        process = start(cgroup, "dd", f"if={name}", "of=/dev/null", "count=0")
        process.communicate()
        cgroup.close()
        assert v2.remove_container(cgroup.path)
        return process.returncode == 0

    v2.prepare_sandbox(TOP, "s1")
    assert opens("/dev/zero")
    assert not opens("/dev/kmsg")
    assert opens("/dev/kmsg", *ALLOW_ALL)
    deny = DeviceCgroup(allow=False, type="a", access="rwm")
    null = DeviceCgroup(allow=True, type="c", major=1, minor=3, access="rwm")
    zero = DeviceCgroup(allow=True, type="c", major=1, minor=5, access="w")
    assert not opens("/dev/zero", deny, null, zero)
    v2.remove_sandbox(TOP)


def test_limits_of_a_controller_that_is_here(v2: V2Driver) -> None:
    if "hugetlb" not in (files("/") / "cgroup.controllers").read_text().split():
        pytest.skip("the unified hierarchy has no hugetlb controller")
    pages = LinuxResources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 << 20),))
    v2.prepare_sandbox(TOP, "s1")
    v2.create_container(TOP, ID, pages).close()
    path = f"{TOP}/{ID}"
    assert (files(path) / "hugetlb.2MB.max").read_text() == f"{4 << 20}\n"
    assert (files(path) / "hugetlb.2MB.rsvd.max").read_text() == f"{4 << 20}\n"
    v2.update(path, LinuxResources(unified={"hugetlb.2MB.max": "max"}))
    assert (files(path) / "hugetlb.2MB.max").read_text() != f"{4 << 20}\n"
    with pytest.raises(InvalidArgument, match="hugetlb.9MB.max = 1: the kernel has no such limit"):
        v2.update(path, LinuxResources(unified={"hugetlb.9MB.max": "1"}))
    assert v2.remove_container(path)
    v2.remove_sandbox(TOP)


def test_a_limit_without_its_controller_is_an_error(v2: V2Driver) -> None:
    if "memory" in (files("/") / "cgroup.controllers").read_text().split():
        pytest.skip("this host has the memory controller on v2")
    with pytest.raises(InvalidArgument, match=f"container {ID}: memory.swap.max = 0|memory.max"):
        v2.create_container(DEFAULT, ID, LinuxResources(memory_limit=1 << 20))
    assert not files(f"{DEFAULT}/{ID}").exists()


def test_names_and_orphans(v2: V2Driver) -> None:
    cgroup = v2.create_container(DEFAULT, ID, NONE)
    cgroup.close()
    with pytest.raises(AlreadyExists):
        v2.create_container(DEFAULT, ID, NONE)
    other = make_v2(owner="orlop-test-cg-other")
    assert other.remove_orphans(set(), set()) == []
    other.close()
    assert v2.remove_orphans(set(), set()) == [cgroup.path]
    with pytest.raises(NotFound):
        v2.create_exec(cgroup.path, "e")
    with pytest.raises(FileNotFoundError):
        v2.container_stats(cgroup.path)
    v2.kill_all(cgroup.path)
    assert v2.freeze(cgroup.path)
