from __future__ import annotations

import logging
import os
import time

import pytest

from orlop.base.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlop.kernel.cgroupfs import discover_mounted
from orlop.oci.cgroups.resources import ALLOW_ALL
from orlop.oci.cgroups.v1 import V1Driver
from orlop.specs.pod import HugepageLimit, LinuxResources
from orlop.specs.runtime import DeviceCgroup
from tests.kernel.cgroups.conftest import DEFAULT, TOP, Start, files, hierarchies, left_over, make_v1

pytestmark = pytest.mark.kernel
ID = "ab" * 32
OTHER = "cd" * 32
NONE = LinuxResources()
MIB = 1 << 20


def test_limits_are_there_before_any_process(v1: V1Driver) -> None:
    assert v1.prepare_sandbox(f"{TOP}/pod1", "s1")
    assert not v1.prepare_sandbox(f"{TOP}/pod1", "s1")
    resources = LinuxResources(
        cpu_shares=512, cpu_quota=20_000, cpu_period=50_000, memory_limit=64 * MIB, cpuset_cpus="0", cpuset_mems="0"
    )
    cgroup = v1.create_container(f"{TOP}/pod1", ID, resources)
    try:
        assert cgroup.path == f"{TOP}/pod1/{ID}"
        for controller, file, value in (
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_quota_us", "20000"),
            ("cpu", "cpu.cfs_period_us", "50000"),
            ("memory", "memory.limit_in_bytes", str(64 * MIB)),
            ("memory", "memory.memsw.limit_in_bytes", str(64 * MIB)),
            ("cpuset", "cpuset.cpus", "0"),
            ("cpuset", "cpuset.mems", "0"),
            ("devices", "devices.list", "c *:* m"),
        ):
            assert (files(cgroup.path, controller) / file).read_text().splitlines()[0] == value
        assert v1.pids(cgroup.path) == []
    finally:
        cgroup.close()
    assert v1.remove_container(cgroup.path)
    assert v1.remove_container(cgroup.path)
    v1.remove_sandbox(f"{TOP}/pod1", made=True)
    assert left_over() == []


def test_a_process_joins_every_hierarchy(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox("", "s1")
    cgroup = v1.create_container(DEFAULT, ID, NONE)
    process = start(cgroup, "cat", "/proc/self/cgroup")
    output, _ = process.communicate()
    cgroup.close()
    places = {line.split(":", 2)[2] for line in output.decode().splitlines()}
    assert places == {f"{DEFAULT}/{ID}"}
    assert len(output.splitlines()) == len(discover_mounted())
    assert v1.remove_container(cgroup.path)


def test_devices(v1: V1Driver, start: Start) -> None:
    def opens(name: str, *devices: DeviceCgroup) -> bool:
        cgroup = v1.create_container(TOP, ID, NONE, *([devices] if devices else []))
        process = start(cgroup, "dd", f"if={name}", "of=/dev/null", "count=0")
        process.communicate()
        cgroup.close()
        assert v1.remove_container(cgroup.path)
        return process.returncode == 0

    v1.prepare_sandbox(TOP, "s1")
    assert opens("/dev/zero")
    assert not opens("/dev/kmsg")
    assert opens("/dev/kmsg", *ALLOW_ALL)
    deny = DeviceCgroup(allow=False, type="a", access="rwm")
    assert not opens("/dev/zero", deny)
    v1.remove_sandbox(TOP)


def test_killing_an_exec_leaves_the_container_alone(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, NONE)
    main = start(cgroup, "sleep", "1000")
    session = v1.create_exec(cgroup.path, "e1")
    command = start(session, "sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000")
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    assert main.pid in v1.pids(cgroup.path)
    while len(v1.pids(session.path)) < 3:
        pass
    v1.kill_all(session.path)
    assert command.wait() == -9
    assert main.poll() is None
    session.close()
    cgroup.close()
    while not v1.remove_exec(cgroup.path, "e1"):
        pass
    assert v1.pids(cgroup.path) == [main.pid]
    v1.kill_all(cgroup.path)
    assert main.wait() == -9
    assert v1.remove_container(cgroup.path)
    v1.remove_sandbox(TOP)


def test_removing_ends_what_still_runs(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, NONE)
    process = start(cgroup, "sleep", "1000")
    (files(cgroup.path, "memory") / "made-inside").mkdir()
    v1.remove_container(cgroup.path)
    assert process.wait() == -9
    while v1.sweep():
        pass
    assert not files(cgroup.path, "memory").exists()
    cgroup.close()
    v1.remove_sandbox(TOP)


def test_a_parent_goes_when_its_last_process_is_dead(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(f"{TOP}/pod", "s1")
    cgroup = v1.create_container(f"{TOP}/pod", ID, NONE)
    session = v1.create_exec(cgroup.path, "e1")
    process = start(session, "sleep", "1000")
    session.close()
    cgroup.close()
    assert not v1.remove_exec(cgroup.path, "e1")
    v1.remove_sandbox(f"{TOP}/pod")
    assert files(cgroup.path, "cpu").exists()
    assert process.poll() is None
    v1.remove_container(cgroup.path)
    process.wait()
    while v1.sweep():
        pass
    assert left_over() == []


def test_frozen_processes_stand_still_and_can_be_killed(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, NONE)
    process = start(cgroup, "sleep", "1000")
    while not v1.freeze(cgroup.path):
        pass
    assert (files(cgroup.path, "freezer") / "freezer.state").read_text() == "FROZEN\n"
    v1.thaw(cgroup.path)
    while not v1.freeze(cgroup.path):
        pass
    v1.kill_all(cgroup.path)
    assert process.wait() == -9
    cgroup.close()
    assert v1.remove_container(cgroup.path)
    v1.remove_sandbox(TOP)


def test_figures(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, LinuxResources(memory_limit=200 * MIB))
    assert v1.container_stats(cgroup.path).cpu_usage == 0
    burn = "import sys\nx = bytearray(32 << 20)\nfor i in range(300000): pass\nprint('ready', flush=True)\nsys.stdin.read()"
    process = start(cgroup, "python3", "-I", "-S", "-c", burn + "\nimport time; time.sleep(1000)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    stats = v1.container_stats(cgroup.path)
    assert stats.cpu_usage > 1_000_000
    assert stats.memory_usage is not None
    assert 32 * MIB < stats.memory_rss <= stats.memory_usage < 200 * MIB
    assert stats.memory_limit == 200 * MIB
    assert stats.swap_limit == 0
    assert stats.page_faults > 1000
    assert stats.pids == 1
    assert abs(stats.timestamp - time.time_ns()) < 60 * 10**9
    pod = v1.sandbox_stats(TOP, [cgroup.path])
    assert pod.memory_usage is not None
    assert pod.memory_usage >= stats.memory_rss
    summed = v1.sandbox_stats(DEFAULT, [cgroup.path, f"{TOP}/gone"])
    assert summed.pids == 1
    if os.path.exists("/proc/pressure/cpu"):
        assert stats.cpu_psi is not None
    cgroup.close()
    v1.kill_all(cgroup.path)
    process.wait()
    assert v1.remove_container(cgroup.path)
    with pytest.raises(FileNotFoundError):
        v1.container_stats(cgroup.path)
    v1.remove_sandbox(TOP)


def test_oom_kills_are_counted(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(TOP, ID, LinuxResources(memory_limit=32 * MIB))
    process = start(cgroup, "python3", "-I", "-S", "-c", "x = bytearray(100 << 20); print(len(x))")
    process.communicate()
    assert process.returncode == -9
    assert v1.container_stats(cgroup.path).oom_kills >= 1
    cgroup.close()
    assert v1.remove_container(cgroup.path)
    v1.remove_sandbox(TOP)


def test_update_is_all_or_nothing(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(TOP, "s1")
    cgroup = v1.create_container(
        TOP, ID, LinuxResources(cpu_shares=100, cpu_quota=20_000, cpu_period=100_000, memory_limit=64 * MIB)
    )
    cgroup.close()

    def now() -> tuple[str, ...]:
        return tuple(
            (files(cgroup.path, controller) / file).read_text().strip()
            for controller, file in (
                ("cpu", "cpu.shares"),
                ("cpu", "cpu.cfs_quota_us"),
                ("cpu", "cpu.cfs_period_us"),
                ("memory", "memory.limit_in_bytes"),
                ("memory", "memory.memsw.limit_in_bytes"),
            )
        )

    v1.update(cgroup.path, LinuxResources(memory_limit=128 * MIB, cpu_quota=5_000, cpu_period=10_000))
    assert now() == ("100", "5000", "10000", str(128 * MIB), str(128 * MIB))
    v1.update(cgroup.path, LinuxResources(memory_limit=32 * MIB, cpu_shares=200))
    assert now() == ("200", "5000", "10000", str(32 * MIB), str(32 * MIB))
    before = now()
    with pytest.raises(InvalidArgument, match=f"container {ID}: cpu.cfs_quota_us = 1: the kernel refuses the value"):
        v1.update(cgroup.path, LinuxResources(cpu_shares=300, memory_limit=64 * MIB, cpu_quota=1))
    assert now() == before
    process = start(_opened(v1, cgroup.path), "python3", "-c", "x = bytearray(10 << 20); print(1, flush=True); input()")
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(FailedPrecondition, match="is below the .* bytes in use"):
        v1.update(cgroup.path, LinuxResources(memory_limit=MIB))
    assert now() == before
    v1.kill_all(cgroup.path)
    process.wait()
    assert v1.remove_container(cgroup.path)
    with pytest.raises(NotFound):
        v1.update(cgroup.path, LinuxResources(cpu_shares=5))
    v1.remove_sandbox(TOP)


def _opened(v1: V1Driver, path: str):  # type: ignore[no-untyped-def]
    return v1._open(path)


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (LinuxResources(cpu_quota=1), "cpu.cfs_quota_us = 1: the kernel refuses"),
        (LinuxResources(cpuset_cpus="7777"), "cpuset.cpus = 7777"),
        (LinuxResources(unified={"memory.high": "1"}), "unified memory.high: needs cgroup v2"),
    ],
)
def test_impossible_limits_leave_nothing(v1: V1Driver, resources: LinuxResources, reason: str) -> None:
    error = FailedPrecondition if resources.unified else InvalidArgument
    with pytest.raises(error, match=f"container {ID}: {reason}"):
        v1.create_container(DEFAULT, ID, resources)
    assert not files(f"{DEFAULT}/{ID}", "memory").exists()
    assert not files(f"{DEFAULT}/{ID}").exists()


def test_a_taken_name_leaves_the_first_alone(v1: V1Driver) -> None:
    cgroup = v1.create_container(DEFAULT, ID, LinuxResources(cpu_shares=77))
    cgroup.close()
    with pytest.raises(AlreadyExists):
        v1.create_container(DEFAULT, ID, NONE)
    assert (files(cgroup.path, "cpu") / "cpu.shares").read_text() == "77\n"
    assert v1.remove_container(cgroup.path)


def test_missing_hugetlb_is_told_or_refused(v1: V1Driver, caplog: pytest.LogCaptureFixture) -> None:
    if any("hugetlb" in each.controllers for each in discover_mounted() if each.version == 1):
        pytest.skip("this host has a hugetlb hierarchy")
    resources = LinuxResources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MIB),))
    with caplog.at_level(logging.WARNING):
        v1.create_container(DEFAULT, ID, resources).close()
    assert "hugetlb.2MB.limit_in_bytes = 4194304 is not enforced" in caplog.text
    v1.remove_container(f"{DEFAULT}/{ID}")
    strict = make_v1(tolerate_missing_hugetlb=False)
    with pytest.raises(InvalidArgument, match="no hugetlb hierarchy"):
        strict.create_container(DEFAULT, ID, resources)
    strict.create_container(DEFAULT, ID, LinuxResources(hugepage_limits=(HugepageLimit(page_size="2MB"),))).close()
    strict.remove_container(f"{DEFAULT}/{ID}")
    strict.close()


def test_a_parent_that_kubelet_made_stays_and_gets_its_cpuset(v1: V1Driver) -> None:
    roots = [each.mountpoint + TOP for each in discover_mounted()]
    for root in roots:
        os.mkdir(root)
    try:
        assert not v1.prepare_sandbox(TOP, "s1")
        assert (files(TOP, "cpuset") / "cpuset.cpus").read_text().strip()
        v1.create_container(TOP, ID, NONE).close()
        v1.remove_container(f"{TOP}/{ID}")
        v1.remove_sandbox(TOP, made=True)
        assert all(os.path.isdir(root) for root in roots)
    finally:
        for root in roots:
            os.rmdir(root)


def test_kubelet_may_be_faster(v1: V1Driver) -> None:
    v1.prepare_sandbox(f"{TOP}/pod", "s1")
    v1.create_container(f"{TOP}/pod", ID, NONE).close()
    for each in discover_mounted():
        for path in (f"{TOP}/pod/{ID}", f"{TOP}/pod", TOP):
            os.rmdir(each.mountpoint + path)
    assert v1.pids(f"{TOP}/pod/{ID}") == []
    v1.kill_all(f"{TOP}/pod/{ID}")
    v1.thaw(f"{TOP}/pod/{ID}")
    assert v1.remove_container(f"{TOP}/pod/{ID}")
    v1.remove_sandbox(f"{TOP}/pod", made=True)
    with pytest.raises(NotFound):
        v1.create_exec(f"{TOP}/pod/{ID}", "e")


def test_a_parent_that_went_with_another_pod_is_made_again(v1: V1Driver) -> None:
    v1.prepare_sandbox(TOP, "s1")
    v1.prepare_sandbox(TOP, "s2")
    v1.remove_sandbox(TOP, made=True)
    v1.create_container(TOP, ID, NONE).close()
    v1.remove_container(f"{TOP}/{ID}")
    v1.remove_sandbox(TOP, made=False)
    assert left_over() == []


def test_orphans_of_this_daemon_only(v1: V1Driver, start: Start) -> None:
    v1.prepare_sandbox(f"{TOP}/a", "s1")
    kept = v1.create_container(f"{TOP}/a", ID, NONE)
    orphan = v1.create_container(DEFAULT, OTHER, NONE)
    process = start(orphan, "sleep", "1000")
    v1.prepare_sandbox(f"{TOP}/b", "s2")
    other = make_v1(owner="orlop-test-cg-other")
    foreign = other.create_container(DEFAULT, "ef" * 32, NONE)
    for each in (kept, orphan, foreign):
        each.close()
    again = make_v1()
    assert set(again.remove_orphans({ID}, {"s1"})) == {orphan.path, f"{TOP}/b"}
    assert process.wait() == -9
    while again.sweep():
        pass
    assert not files(orphan.path, "cpu").exists()
    assert not files(f"{TOP}/b", "cpu").exists()
    assert files(kept.path, "cpu").exists()
    assert files(foreign.path, "cpu").exists()
    assert other.remove_orphans(set(), set()) == [foreign.path]
    assert again.remove_container(kept.path)
    again.remove_sandbox(f"{TOP}/a")
    other.close()
    again.close()


def test_what_another_runtime_left_of_a_cgroup_is_an_orphan_still(v1: V1Driver) -> None:
    cgroup = v1.create_container(DEFAULT, OTHER, NONE)
    cgroup.close()
    for each in hierarchies():
        if each.version == 1:
            each.rmdir(cgroup.path)
        each.close()
    assert files(cgroup.path).exists(), "no unified hierarchy beside the others"
    again = make_v1()
    assert again.remove_orphans(set(), set()) == [cgroup.path]
    assert not files(cgroup.path).exists()
    again.close()


@pytest.mark.parametrize("path", ["/", "relative", DEFAULT, f"{TOP}/../x", "//../"])
def test_what_is_no_container_is_never_touched(v1: V1Driver, path: str) -> None:
    for verb in (v1.kill_all, v1.remove_container, v1.pids, v1.freeze, v1.thaw, v1.container_stats):
        with pytest.raises(InvalidArgument, match="is not a container's or pod's cgroup"):
            verb(path)
    assert v1.remove_container("")
    v1.kill_all("")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\nb", "-x", "x" * 300])
def test_hostile_names(v1: V1Driver, name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a plain name"):
        v1.create_container(DEFAULT, name, NONE)
    with pytest.raises(InvalidArgument, match="is not a plain name"):
        v1.create_exec(f"{DEFAULT}/{ID}", name)


def test_no_fd_is_left(v1: V1Driver) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        cgroup = v1.create_container(DEFAULT, ID, NONE)
        v1.create_exec(cgroup.path, "e").close()
        v1.container_stats(cgroup.path)
        v1.update(cgroup.path, LinuxResources(cpu_shares=5))
        cgroup.close()
        v1.remove_container(cgroup.path)
        with pytest.raises(InvalidArgument):
            v1.create_container(DEFAULT, ID, LinuxResources(cpu_quota=1))
    assert len(os.listdir("/proc/self/fd")) == before
