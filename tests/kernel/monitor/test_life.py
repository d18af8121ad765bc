"""A container's life under its monitor: gate, start, exit record, events, refusals; and the monitor's own."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, Internal, Unavailable
from orlop.monitor.client import MonitorError
from orlop.monitor.spawn import connect_monitor, spawn_monitor
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.codec import encode
from orlop.oci.ops import make_plan
from tests.kernel.monitor.harness import PodUnderTest, binary, logged

pytestmark = pytest.mark.kernel


async def test_create_start_exit_record_event_remove(pod: PodUnderTest) -> None:
    created = await pod.create("c1", "echo hello; exit 7")
    await pod.client.hello()
    (row,) = pod.client.containers
    assert (row.id, row.is_exec, row.state, row.pid) == ("c1", False, "created", created.pid)
    assert row.start_time == created.start_time > 0
    before = time.time_ns()
    started = await pod.client.start("c1")
    assert before <= started <= time.time_ns()
    event = await pod.exit_of("c1")
    record = pod.record("c1")
    assert record is not None
    assert (record.exit_code, record.signal, record.oom_killed, record.pid) == (7, 0, False, created.pid)
    assert (event.exit_code, event.finished_ns, event.is_exec) == (7, record.finished_ns, False)
    assert logged(pod.log("c1")) == b"hello\n"
    await pod.client.hello()
    assert [(row.id, row.state, row.exit_code) for row in pod.client.containers] == [("c1", "exited", 7)]
    await pod.client.remove("c1")
    await pod.client.hello()
    assert pod.client.containers == ()


async def test_killed_by_signal(pod: PodUnderTest) -> None:
    await pod.run("c1", "kill -TERM $$; sleep 60", flags=k.CLONE_NEWNS)
    assert (await pod.exit_of("c1")).exit_code == 128 + signal.SIGTERM
    await pod.run("c2", "sleep 60")
    with pytest.raises(MonitorError, match="remove: it runs: device or resource busy"):
        await pod.client.remove("c2")
    await pod.client.kill("c2", signal.SIGKILL)
    event = await pod.exit_of("c2")
    assert (event.exit_code, event.signal) == (137, 9)
    with pytest.raises(MonitorError) as caught:
        await pod.client.kill("c2", signal.SIGKILL)
    assert caught.value.errno == errno.ESRCH


async def test_a_command_that_is_missing_fails_the_start(pod: PodUnderTest) -> None:
    await pod.create("c1", "", argv=("/bin/none",))
    with pytest.raises(MonitorError, match='exec: "/bin/none": no such file or directory') as caught:
        await pod.client.start("c1")
    assert (caught.value.op, caught.value.errno) == ("exec", errno.ENOENT)
    event = await pod.exit_of("c1")
    assert (event.exit_code, event.signal) == (128, 0)
    await pod.client.remove("c1")


async def test_an_op_that_fails_fails_the_create_and_leaves_nothing(pod: PodUnderTest) -> None:
    plan = make_plan(
        [
            ops.Clone(flags=k.CLONE_NEWNS | k.CLONE_NEWPID, cgroup=None),
            ops.RootPropagation(flags=k.MS_SLAVE | k.MS_REC),
            ops.Rootfs(tree=None, source="/orlop/none", flags=0),
            ops.Exec(path="/bin/sh", argv=("sh",), envp=()),
        ]
    )
    with pytest.raises(MonitorError, match="rootfs: .*/orlop/none: no such file or directory") as caught:
        await pod.client.create("c1", encode(plan), [])
    assert (caught.value.op, caught.value.op_index) == ("rootfs", 2)

    async def forgotten() -> bool:
        await pod.client.hello()
        return pod.client.containers == ()

    while not await forgotten():
        pass
    assert pod.events == []
    assert pod.record("c1") is None


async def test_what_waits_at_its_gate_is_removed_without_a_record(pod: PodUnderTest) -> None:
    created = await pod.create("c1", "echo never")
    await pod.client.remove("c1")
    assert not Path(f"/proc/{created.pid}").exists()
    assert pod.record("c1") is None
    assert pod.events == []
    await pod.run("c1", "echo now")
    assert (await pod.exit_of("c1")).exit_code == 0


async def test_killed_at_its_gate_it_has_a_record_and_cannot_be_started(pod: PodUnderTest) -> None:
    await pod.create("c1", "echo never")
    await pod.client.kill("c1", signal.SIGKILL)
    assert (await pod.exit_of("c1")).exit_code == 137
    with pytest.raises(MonitorError, match="start: exited"):
        await pod.client.start("c1")


async def test_refusals(pod: PodUnderTest) -> None:
    plan = pod.plan("true")
    for bad in ("", "a/b", "..", "x" * 80, "a b"):
        with pytest.raises(MonitorError) as caught:
            await pod.client.create(bad, plan, [])
        assert caught.value.errno == errno.EINVAL
    await pod.create("c1", "true")
    with pytest.raises(MonitorError, match="create: id is taken: file exists"):
        await pod.client.create("c1", plan, [])
    with pytest.raises(MonitorError, match="start: no such container"):
        await pod.client.start("none")
    with pytest.raises(MonitorError, match="resize: it has no terminal"):
        await pod.client.resize("c1", 24, 80)
    with pytest.raises(MonitorError, match="kill: no such signal"):
        await pod.client.kill("c1", 0)
    with pytest.raises(MonitorError, match="exec: the container does not run: no such process"):
        await pod.client.exec("e1", "none", plan, [])
    with pytest.raises(MonitorError, match="plan: "):
        await pod.client.create("c2", b"ORLPjunk", [])
    with pytest.raises(MonitorError, match="shutdown: containers live"):
        await pod.client.shutdown(force=False)
    with pytest.raises(MonitorError, match="kept_fd: none"):
        await pod.client.kept_fd("none")


async def test_namespaces_connect_and_kept_fds(pod: PodUnderTest) -> None:
    await pod.pod()
    with pytest.raises(MonitorError, match="pod: the pod is made already"):
        await pod.pod()
    namespaces = await pod.client.namespaces(every=True)
    assert namespaces.netlink is not None
    assert os.fstat(namespaces.netns_fd).st_ino == os.stat(f"/proc/{pod.pid}/ns/net").st_ino
    assert os.fstat(namespaces.netns_fd).st_ino != os.stat("/proc/self/ns/net").st_ino
    assert namespaces.pid_fd == -1
    namespaces.netlink.close()
    for name, fd in (("ipc", namespaces.ipc_fd), ("uts", namespaces.uts_fd)):
        assert os.fstat(fd).st_ino == os.stat(f"/proc/{pod.pid}/ns/{name}").st_ino
        os.close(fd)
    await pod.client.keep_fd("netns", namespaces.netns_fd)
    kept = await pod.client.kept_fd("netns")
    assert os.fstat(kept).st_ino == os.fstat(namespaces.netns_fd).st_ino
    os.close(kept)
    os.close(namespaces.netns_fd)
    with pytest.raises(Unavailable, match="cannot connect to port 80: connection refused"):
        await pod.client.connect(80)
    await pod.run("c1", "nc -l -p 8080 -e /bin/echo hi", flags=k.CLONE_NEWNS | k.CLONE_NEWPID)

    async def connected():  # type: ignore[no-untyped-def]
        try:
            return await pod.client.connect(8080)
        except Unavailable:
            return None

    while (sock := await connected()) is None:
        pass
    sock.setblocking(True)
    assert sock.recv(10) == b"hi\n"
    sock.close()
    await pod.exit_of("c1")


async def test_the_daemon_dies_and_comes_back(pod: PodUnderTest) -> None:
    await pod.run("c1", "for i in 1 2 3; do echo $i; done; read x; echo $x; exit 5", stdin=True)
    attached = await pod.client.attach("c1", stdin=True, stdout=False, stderr=False)
    await pod.run("c2", "exit 3")
    await pod.exit_of("c2")
    pod.client.close()
    attached.send(b"while away\n")
    attached.close()
    await pod.wait_for(lambda: pod.record("c1"))
    client = await pod.reconnect()
    assert {(row.id, row.state, row.exit_code) for row in client.containers} == {
        ("c1", "exited", 5),
        ("c2", "exited", 3),
    }
    assert logged(pod.log("c1")) == b"1\n2\n3\nwhile away\n"
    assert client.pid == pod.clients[0].pid


async def test_two_connections_both_hear_events(pod: PodUnderTest) -> None:
    await pod.create("c1", "exit 1")
    first = pod.client
    await pod.reconnect()
    await pod.client.start("c1")
    await pod.wait_for(lambda: len(pod.events) == 2)
    first.close()
    assert pod.events[0] == pod.events[1]


async def test_shutdown_kills_all_and_the_socket_goes(pod: PodUnderTest) -> None:
    await pod.pod(ops.PodUnshare(flags=k.CLONE_NEWIPC), ops.PodInit())
    one = await pod.run("c1", "sleep 1000 & sleep 1000 & wait")
    two = await pod.create("c2", "true")
    await pod.client.shutdown(force=True)
    await pod.wait_for(pod.lost.is_set)
    assert not Path(f"/proc/{one.pid}").exists()
    assert not Path(f"/proc/{two.pid}").exists()
    with pytest.raises(FileNotFoundError):
        await connect_monitor("orlop-test", pod.directory)
    record = pod.record("c1")
    assert record is not None
    assert record.exit_code == 137
    with pytest.raises(Unavailable):
        await pod.client.hello()


async def test_strangers_are_reaped(pod: PodUnderTest) -> None:
    """A container without a PID namespace of its own leaves orphans: the monitor is their parent then."""
    await pod.run("c1", "(sleep 0.05; exit 3) & exit 0", flags=k.CLONE_NEWNS)
    await pod.exit_of("c1")
    await pod.wait_for(lambda: not Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split())


async def test_spawn_twice_and_without_a_binary(pod: PodUnderTest, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="has a monitor's socket"):
        await spawn_monitor("orlop-test", pod.directory, binary())
    (tmp_path / "other").mkdir()
    with pytest.raises(Internal, match="cannot start monitor /none"):
        await spawn_monitor("orlop-test", tmp_path / "other", Path("/none"))
    assert (pod.directory / "monitor.sock").stat().st_mode & 0o777 == 0o600


async def test_two_hundred_containers_leave_the_monitor_as_it_was(pod: PodUnderTest) -> None:
    """Created, failed, attached, killed, removed in every order, eight at a time: no fd, no child and no row stays."""

    async def cycle(i: int) -> None:
        name = f"c{i}"
        await pod.create(name, f"echo {i}; sleep 1000", stdin=i % 2 == 0, argv=("/bin/none",) if i % 5 == 4 else ())
        if i % 3 == 0:
            (await pod.client.attach(name, stdin=True)).close()
        if i % 5 == 3:
            await pod.client.remove(name)
            return
        if i % 5 == 4:
            with pytest.raises(MonitorError):
                await pod.client.start(name)
        else:
            await pod.client.start(name)
            reading = await pod.exec(f"e{i}", name, "exit 0")
            if i % 2:
                await pod.exit_of(f"e{i}")
            os.close(reading)
            await pod.client.kill(name, signal.SIGKILL, all=True)
        await pod.exit_of(name)
        await pod.client.remove(name)

    async def worker(first: int) -> None:
        for i in range(first, 200, 8):
            await cycle(i)

    await cycle(1000)
    fds = len(os.listdir(f"/proc/{pod.pid}/fd"))
    await asyncio.gather(*(worker(first) for first in range(8)))
    await pod.client.hello()
    assert pod.client.containers == ()
    assert len(os.listdir(f"/proc/{pod.pid}/fd")) == fds
    assert Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text() == ""
