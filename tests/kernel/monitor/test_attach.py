"""Attached clients: fan-out, stdin, a client that does not read, terminals."""

from __future__ import annotations

import asyncio
import select
import socket

import pytest

from orlop.monitor.client import MonitorError
from tests.kernel.monitor.harness import PodUnderTest, logged

pytestmark = pytest.mark.kernel


def drain(sock: socket.socket) -> dict[int, bytes]:
    """Read until the monitor closes the client; return the bytes by stream."""
    sock.setblocking(True)
    sock.settimeout(20)
    got = {1: b"", 2: b""}
    while packet := sock.recv(65536):
        got[packet[0]] += packet[1:]
    sock.close()
    return got


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
    await pod.create("c1", "seq 400000; echo done >&2")
    stuck = await pod.client.attach("c1")
    reader = await pod.client.attach("c1", stdout=False, stderr=True)
    await pod.client.start("c1")
    assert (await pod.exit_of("c1")).exit_code == 0
    assert drain(reader)[2] == b"done\n"
    got = drain(stuck)[1]
    full = b"".join(b"%d\n" % i for i in range(1, 400001))
    assert full.startswith(got)
    assert 0 < len(got) < len(full)
    assert logged(pod.log("c1"), "stdout") == full


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
