"""Attached clients: fan-out, stdin, a client that does not read, terminals."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from pathlib import Path

import pytest

from orlop.base import limits
from orlop.monitor.client import MonitorError
from tests.kernel.monitor.harness import PodUnderTest, logged

pytestmark = pytest.mark.kernel


BACKLOG_MIB = limits.ATTACH_BACKLOG_BYTES >> 20


def memory_kb(pid: int) -> int:
    """Anonymous memory of a process: what it keeps."""
    fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return next(int(values[1]) for values in fields if values[0] == "RssAnon:")


def drain_all(sock: socket.socket) -> tuple[bytes, str]:
    """Read until the monitor closes the client; return its stdout and what it was told when it was cut off."""
    sock.setblocking(True)
    sock.settimeout(20)
    got, said = bytearray(), ""
    while packet := sock.recv(65536):
        if packet[0] == 3:
            said = packet[1:].decode()
        elif packet[0] == 1:
            assert not said
            got += packet[1:]
    sock.close()
    return bytes(got), said


def drain(sock: socket.socket) -> dict[int, bytes]:
    """Read until the monitor closes the client; return the bytes by stream."""
    sock.setblocking(True)
    sock.settimeout(20)
    got = {1: bytearray(), 2: bytearray()}
    while packet := sock.recv(65536):
        got[packet[0]] += packet[1:]
    sock.close()
    return {stream: bytes(data) for stream, data in got.items()}


async def test_every_client_gets_what_it_asked_for(pod: PodUnderTest) -> None:
    await pod.create("c1", "echo out; echo err >&2")
    both = await pod.client.attach("c1", stdout=True, stderr=True)
    out = await pod.client.attach("c1", stdout=True, stderr=False)
    err = await pod.client.attach("c1", stdout=False, stderr=True)
    await pod.client.start("c1")
    await pod.exit_of("c1")
    assert drain(both) == {1: b"out\n", 2: b"err\n"}
    assert drain(out) == {1: b"out\n", 2: b""}
    assert drain(err) == {1: b"", 2: b"err\n"}
    with pytest.raises(MonitorError, match="attach: no running container"):
        await pod.client.attach("c1", stdout=True)


async def test_a_client_that_does_not_read_is_cut_off_and_nobody_waits(pod: PodUnderTest) -> None:
    await pod.create("c1", f"dd if=/dev/zero bs=1M count={BACKLOG_MIB + 6} 2> /dev/null; echo done >&2", log=False)
    stuck = await pod.client.attach("c1")
    reader = await pod.client.attach("c1", stdout=False, stderr=True)
    before = memory_kb(pod.pid)
    await pod.client.start("c1")
    assert (await pod.exit_of("c1")).exit_code == 0
    assert drain(reader)[2] == b"done\n"
    got, said = drain_all(stuck)
    assert 0 < len(got) < BACKLOG_MIB << 20
    assert said.startswith("this client reads more slowly than the container writes")
    assert memory_kb(pod.pid) <= before + 1024


async def test_a_burst_waits_for_its_readers_beyond_the_containers_end(pod: PodUnderTest) -> None:
    """Two clients are behind by the whole of it, a third reads as it comes: it is kept once, every byte of it, and then freed."""
    await pod.create(
        "c1", "dd if=/dev/urandom of=/tmp/big bs=1M count=50 2> /dev/null; cat /tmp/big; echo end >&2", log=False
    )
    late = [await pod.client.attach("c1") for _ in range(2)]
    eager = await pod.client.attach("c1")
    before = memory_kb(pod.pid)
    reading = asyncio.create_task(asyncio.to_thread(drain_all, eager))
    await pod.client.start("c1")
    assert (await pod.exit_of("c1")).exit_code == 0
    big = (pod.base / "root/tmp/big").read_bytes()
    kept = memory_kb(pod.pid)
    assert (await reading) == (big, "")
    assert (45 << 10) < kept < (60 << 10)
    for client in late:
        assert await asyncio.to_thread(drain, client) == {1: big, 2: b"end\n"}
    await pod.client.hello()
    assert memory_kb(pod.pid) <= before + 1024
    await pod.client.remove("c1")


async def test_one_who_leaves_frees_what_was_kept_for_it(pod: PodUnderTest) -> None:
    await pod.create("c1", "dd if=/dev/zero bs=1M count=8 2> /dev/null; read x; echo $x", stdin=True, log=False)
    before = memory_kb(pod.pid)
    behind = await pod.client.attach("c1", stdin=True)
    await pod.client.start("c1")
    await pod.wait_for(lambda: memory_kb(pod.pid) > before + 6000)
    behind.send(b"word\n")
    behind.close()
    assert (await pod.exit_of("c1")).exit_code == 0
    await pod.wait_for(lambda: memory_kb(pod.pid) <= before + 1024)


async def test_clients_of_ended_containers_are_not_kept_for_ever(pod: PodUnderTest) -> None:
    """A container that ends with a stuck client, again and again: the oldest of them go, with what was kept for them."""
    fds, before = len(os.listdir(f"/proc/{pod.pid}/fd")), memory_kb(pod.pid)
    stuck = []
    for i in range(70):
        await pod.create(f"c{i}", "dd if=/dev/zero bs=1M count=1 2> /dev/null", log=False)
        stuck.append(await pod.client.attach(f"c{i}"))
        await pod.client.start(f"c{i}")
        await pod.exit_of(f"c{i}")
        await pod.client.remove(f"c{i}")
    assert len(os.listdir(f"/proc/{pod.pid}/fd")) <= fds + 64
    assert memory_kb(pod.pid) <= before + ((BACKLOG_MIB + 1) << 10)
    for client in stuck:
        client.close()
    await pod.wait_for(lambda: len(os.listdir(f"/proc/{pod.pid}/fd")) == fds)
    assert memory_kb(pod.pid) <= before + 1024


async def test_stdin_end_is_shut_wr_and_output_goes_on(pod: PodUnderTest) -> None:
    await pod.run("c1", "cat; echo after", stdin=True, stdin_once=True)
    attached = await pod.client.attach("c1", stdin=True)
    attached.send(b"some\n")
    attached.send(b"input\n")
    attached.shutdown(socket.SHUT_WR)
    await pod.exit_of("c1")
    assert drain(attached)[1] == b"some\ninput\nafter\n"


async def test_stdin_stays_open_without_stdin_once(pod: PodUnderTest) -> None:
    await pod.run("c1", "read a; read b; echo $a$b", stdin=True)
    for word in (b"one\n", b"two\n"):
        attached = await pod.client.attach("c1", stdin=True, stdout=False, stderr=False)
        attached.send(word)
        attached.close()
    await pod.exit_of("c1")
    assert logged(pod.log("c1")) == b"onetwo\n"


async def test_without_stdin_it_is_null(pod: PodUnderTest) -> None:
    await pod.run("c1", "cat; echo end")
    await pod.exit_of("c1")
    assert logged(pod.log("c1")) == b"end\n"


async def test_a_megabyte_of_stdin_waits_for_a_container_that_reads_late(pod: PodUnderTest) -> None:
    await pod.create("c1", "echo ready; sleep 0.2; tail -c 5", stdin=True, stdin_once=True)
    attached = await pod.client.attach("c1", stdin=True)
    await pod.client.start("c1")
    data = b"x" * (1 << 20) + b"tail\n"
    loop = asyncio.get_running_loop()
    attached.setblocking(False)
    for at in range(0, len(data), 60000):
        await loop.sock_sendall(attached, data[at : at + 60000])
        await pod.client.hello()
    attached.shutdown(socket.SHUT_WR)
    await pod.exit_of("c1")
    assert drain(attached)[1] == b"ready\ntail\n"


async def test_terminal(pod: PodUnderTest) -> None:
    await pod.create("c1", "stty size; read x; stty size; echo got $x >&2", tty=True, stdin=True)
    attached = await pod.client.attach("c1", stdin=True)
    await pod.client.start("c1")
    attached.setblocking(True)
    assert attached.recv(100) == b"\x0124 80\r\n"
    await pod.client.resize("c1", 50, 132)
    attached.send(b"word\n")
    assert (await pod.exit_of("c1")).exit_code == 0
    assert drain(attached) == {1: b"word\r\n50 132\r\ngot word\r\n", 2: b""}
    assert logged(pod.log("c1"), "stdout") == b"24 80\r\nword\r\n50 132\r\ngot word\r\n"
    assert logged(pod.log("c1"), "stderr") == b""


async def test_too_many_clients_are_refused(pod: PodUnderTest) -> None:
    await pod.create("c1", "true")
    clients = [await pod.client.attach("c1") for _ in range(64)]
    with pytest.raises(MonitorError, match="attach: one more client: too many open files"):
        await pod.client.attach("c1")
    for each in clients:
        each.close()
    await pod.client.hello()
    again = await pod.client.attach("c1")
    await pod.client.start("c1")
    await pod.exit_of("c1")
    assert select.select([again], [], [], 5)[0]
    again.close()


async def test_a_client_that_closes_without_reading_has_still_said_what_it_said(pod: PodUnderTest) -> None:
    """Closing a socket with unread packets in it resets the connection; the stdin before it counts."""
    await pod.create("c1", "echo first; read x; echo $x", stdin=True)
    watcher = await pod.client.attach("c1")
    attached = await pod.client.attach("c1", stdin=True)
    await pod.client.start("c1")
    watcher.setblocking(True)
    assert watcher.recv(100) == b"\x01first\n"
    attached.send(b"word\n")
    attached.close()
    await pod.exit_of("c1")
    assert drain(watcher)[1] == b"word\n"
