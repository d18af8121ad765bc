"""Execs: their output, their end, the tree they leave, timeouts, a daemon that goes away, a shared PID namespace."""

from __future__ import annotations

import errno
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop.monitor.client import MonitorError
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Fd
from tests.kernel.monitor.harness import SOON_MS, Cgroups, PodUnderTest, logged

pytestmark = pytest.mark.kernel
MakeCgroups = Callable[..., Cgroups]


def output(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


async def test_exec_runs_inside_and_tells_its_end(pod: PodUnderTest) -> None:
    await pod.run("c1", "echo main > /tmp/file; sleep 1000")
    await pod.wait_for((pod.base / "root/tmp/file").exists)
    reading = await pod.exec("e1", "c1", "cat /tmp/file; echo $$; exit 9")
    event = await pod.exit_of("e1")
    assert (event.exit_code, event.is_exec, event.timed_out) == (9, True, False)
    first, pid = output(reading).split()
    assert first == b"main"
    assert 1 < int(pid) < 100
    assert pod.record("e1") is None
    await pod.client.hello()
    assert [row.id for row in pod.client.containers] == ["c1"]


async def test_exec_of_a_missing_command(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    plan = pod.exec_plan("c1", "").replace(b"/bin/sh\0", b"/bin/no\0", 1)
    with pytest.raises(MonitorError, match='exec: "/bin/no": no such file') as caught:
        await pod.client.exec("e1", "c1", plan, [])
    assert caught.value.errno == errno.ENOENT
    assert not any(event.id == "e1" for event in pod.events)


async def test_what_an_exec_leaves_behind_lives_on(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    main = cgroups()
    await pod.run("c1", "sleep 1000", cgroups=main)
    sub = cgroups(main)
    reading = await pod.exec("e1", "c1", "sleep 1001 > /dev/null 2>&1 & echo $!", cgroup=sub)
    await pod.exit_of("e1")
    assert output(reading).strip().isdigit()
    assert len(set(sub.pids())) == 1
    await pod.client.kill("c1", signal.SIGKILL)
    await pod.exit_of("c1")
    assert sub.pids() == []


async def test_timeout_kills_the_whole_tree(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    main = cgroups()
    await pod.run("c1", "sleep 1000", cgroups=main)
    sub = cgroups(main)
    begun = time.monotonic()
    reading = await pod.exec("e1", "c1", "(sleep 1001; sleep 1002) & sleep 1003 & wait", cgroup=sub, timeout_ms=SOON_MS)
    event = await pod.exit_of("e1")
    assert (event.timed_out, event.exit_code, event.signal) == (True, 137, 9)
    assert time.monotonic() - begun >= SOON_MS / 1000
    assert output(reading) == b""
    assert sub.pids() == []
    assert len(set(main.pids())) == 1


async def test_timeout_kills_the_whole_tree_without_a_freezer(pod: PodUnderTest) -> None:
    """v1, but the directory is of another hierarchy: those who fork meanwhile are killed in further rounds."""
    group = Path(f"/sys/fs/cgroup/pids/orlop-test-{uuid.uuid4().hex[:12]}")
    if not group.parent.is_dir():
        pytest.skip("no cgroup v1 pids hierarchy")
    group.mkdir()
    await pod.run("c1", "sleep 1000")
    tasks, directory = os.open(group / "tasks", os.O_WRONLY), os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    plan = pod.exec_plan(
        "c1", "for i in 1 2 3 4; do sh -c 'while true; do (true); done' & done; wait", tasks=[Fd("pids")]
    )
    await pod.client.exec("e1", "c1", plan, [tasks], cgroup_fd=directory, timeout_ms=SOON_MS)
    os.close(tasks)
    os.close(directory)
    assert (await pod.exit_of("e1")).timed_out
    await pod.wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


async def test_timeout_kills_the_whole_tree_on_v2(pod: PodUnderTest) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    unified = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if unified is None:
        pytest.skip("no cgroup v2 hierarchy")
    group = unified / f"orlop-test-{uuid.uuid4().hex[:12]}"
    group.mkdir()
    await pod.run("c1", "sleep 1000")
    directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    plan = pod.exec_plan("c1", "(sleep 1001; sleep 1002) & sleep 1003 & wait", into=Fd("group"))
    await pod.client.exec("e1", "c1", plan, [directory], cgroup_fd=directory, v2=True, timeout_ms=SOON_MS)
    os.close(directory)
    assert (await pod.exit_of("e1")).timed_out
    await pod.wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text())
    group.rmdir()


async def test_a_timeout_that_is_not_reached(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    os.close(await pod.exec("e1", "c1", "exit 2", timeout_ms=2**63))
    event = await pod.exit_of("e1")
    assert (event.timed_out, event.exit_code) == (False, 2)


async def test_kill_on_disconnect(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    main = cgroups()
    await pod.run("c1", "sleep 1000", cgroups=main)
    mine, other = cgroups(main), cgroups(main)
    mine_out = await pod.exec("e1", "c1", "sleep 1001 & sleep 1002", cgroup=mine, kill_on_disconnect=True)
    other_out = await pod.exec("e2", "c1", "echo alive; sleep 1003", cgroup=other)
    pod.client.close()
    assert output(mine_out) == b""
    await pod.reconnect()
    await pod.wait_for(lambda: mine.pids() == [])
    assert other.pids()
    assert {row.id for row in pod.client.containers} - {"e1"} == {"c1", "e2"}
    await pod.client.kill("e2", signal.SIGKILL, all=True)
    assert (await pod.exit_of("e2")).exit_code == 137
    assert output(other_out) == b"alive\n"


async def test_execs_end_before_their_container(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    outputs = [await pod.exec(f"e{i}", "c1", "sleep 1001") for i in range(5)]
    await pod.client.kill("c1", signal.SIGKILL)
    await pod.exit_of("c1")
    assert {event.id for event in pod.events[:5]} == {f"e{i}" for i in range(5)}
    assert pod.events[5].id == "c1"
    assert [output(fd) for fd in outputs] == [b""] * 5


async def test_shared_pid_namespace(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    """Init is the pod's own; when a container ends, its background processes and execs end with it, and its neighbour's do not."""
    await pod.pod(ops.PodUnshare(flags=k.CLONE_NEWIPC), ops.PodInit())
    namespaces = await pod.client.namespaces(every=True)
    assert namespaces.init_pid > 0
    assert os.fstat(namespaces.pid_fd).st_ino == os.stat(f"/proc/{namespaces.init_pid}/ns/pid").st_ino
    os.close(namespaces.ipc_fd)
    os.close(namespaces.pid_fd)
    one, two = cgroups(), cgroups()
    await pod.run("c1", "sleep 1001 & echo $$; read x; echo end; exit 6", cgroups=one, shared=True, stdin=True)
    await pod.run("c2", "sleep 1000", cgroups=two, shared=True)
    sub_one, sub_two = cgroups(one), cgroups(two)
    exec_one = await pod.exec("e1", "c1", "sleep 1002", cgroup=sub_one)
    exec_two = await pod.exec("e2", "c2", "ps; sleep 1003", cgroup=sub_two)
    attached = await pod.client.attach("c1", stdin=True, stdout=False, stderr=False)
    attached.send(b"\n")
    attached.close()
    assert (await pod.exit_of("c1")).exit_code == 6
    assert [event.id for event in pod.events] == ["e1", "c1"]
    await pod.wait_for(lambda: one.pids() == sub_one.pids() == [])
    assert output(exec_one) == b""
    first, last = logged(pod.log("c1")).split()
    assert int(first) > 1
    assert last == b"end"
    assert two.pids()
    assert sub_two.pids()
    await pod.client.kill("c2", signal.SIGKILL, all=True)
    await pod.exit_of("c2")
    await pod.exit_of("e2")
    assert b"sleep 1000" in output(exec_two)
    assert Path(f"/proc/{namespaces.init_pid}").exists()


async def test_background_writers_do_not_hold_the_end(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    await pod.pod(ops.PodUnshare(flags=k.CLONE_NEWIPC), ops.PodInit())
    group = cgroups()
    await pod.run("c1", "yes & yes >&2 & sleep 0.05; exit 1", cgroups=group, shared=True)
    assert (await pod.exit_of("c1")).exit_code == 1
    await pod.wait_for(lambda: group.pids() == [])


async def test_a_frozen_container_is_killed(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    group = cgroups()
    await pod.run("c1", "sleep 1000", cgroups=group)
    (group.freezer / "freezer.state").write_text("FROZEN")
    await pod.client.kill("c1", signal.SIGKILL, all=True)
    assert (await pod.exit_of("c1")).exit_code == 137


async def test_a_signal_to_all(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    group = cgroups()
    child = "trap 'echo child; exit' USR1; sleep 1000 & : > /tmp/child; wait"
    main = f"trap 'echo main; exit 3' USR1; ({child}) & : > /tmp/main; while true; do wait; done"
    await pod.run("c1", main, cgroups=group)
    for name in ("main", "child"):
        await pod.wait_for((pod.base / "root/tmp" / name).exists)
    await pod.client.kill("c1", signal.SIGUSR1, all=True)
    assert (await pod.exit_of("c1")).exit_code == 3
    assert b"main" in logged(pod.log("c1"))
