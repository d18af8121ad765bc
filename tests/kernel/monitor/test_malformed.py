"""A connection that talks nonsense is closed; the pod does not notice."""

from __future__ import annotations

import os
import random
import socket

import pytest

from orlop.monitor import protocol
from tests.kernel.monitor.harness import PodUnderTest

pytestmark = pytest.mark.kernel


def connected(pod: PodUnderTest) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(pod.directory / "monitor.sock"))
    sock.settimeout(10)
    return sock


async def test_nonsense_gets_eproto_and_the_end(pod: PodUnderTest) -> None:
    good = protocol.encode(protocol.Kill(id="c1", signal=9, all=0), 5)[0]
    for bad in (b"x", b"\0" * 16, good[:-1], good + b"\0", good[:4] + b"\2" + good[5:], b"\xff" * 60000):
        sock = connected(pod)
        sock.send(bad)
        _, reply = protocol.decode(sock.recv(65536))
        assert isinstance(reply, protocol.Error)
        assert (os.strerror(reply.errnum), reply.op) == ("Protocol error", "message")
        assert sock.recv(10) == b""
        sock.close()
    await pod.client.hello()


async def test_an_fd_index_beyond_the_packets_fds(pod: PodUnderTest) -> None:
    data, _ = protocol.encode(protocol.KeepFd(name="x", fd=3), 1)
    sock = connected(pod)
    sock.send(data)
    assert isinstance(protocol.decode(sock.recv(65536))[1], protocol.Error)
    sock.close()
    await pod.client.hello()


async def test_random_packets_and_connections(pod: PodUnderTest) -> None:
    """Well-formed requests with random contents and fds, requests cut anywhere, connections that close at once: the monitor stays."""
    dice = random.Random(7)
    await pod.run("c1", "sleep 1000")
    skipped = (protocol.Shutdown, protocol.Pod)
    kinds = [kind for kind in protocol.MESSAGES if kind.direction == "REQ" and kind not in skipped]

    def value(wire: str) -> object:
        if wire in ("U32", "U64"):
            return dice.choice([0, 1, 2, 7, 31, 255, 65535, 2**32 - 1])
        if wire == "STR":
            return dice.choice(["", "c1", "e1", "x" * 79, "x" * 5000, "../c1", "ü"])
        return dice.choice([None, reading, writing]) if wire == "FD" else (reading,) * dice.randrange(20)

    reading, writing = os.pipe()
    for _ in range(400):
        sock = connected(pod)
        for _ in range(dice.randrange(4)):
            kind = dice.choice(kinds)
            fields = {name: value(wire) for wire, name in protocol.wire_fields(kind)}
            if kind is protocol.Kill:
                fields["id"] = "none"
            data, fds = protocol.encode(kind(**fields), 1)
            if dice.random() < 0.2:
                data = data[: dice.randrange(1, len(data))]
            try:
                socket.send_fds(sock, [data], fds[:60])
            except (BrokenPipeError, ConnectionResetError):
                break
        sock.close()
    os.close(reading)
    os.close(writing)
    await pod.client.hello()
    assert [(row.id, row.state) for row in pod.client.containers] == [("c1", "running")]
    assert len(os.listdir(f"/proc/{pod.pid}/fd")) < 30


async def test_a_daemon_that_does_not_read_is_dropped(pod: PodUnderTest) -> None:
    sock = connected(pod)
    hello = protocol.encode(protocol.Hello(), 1)[0]
    sock.setblocking(False)
    dropped = False
    for _ in range(100_000):
        try:
            sock.send(hello)
        except BlockingIOError:
            await pod.client.hello()
        except (BrokenPipeError, ConnectionResetError):
            dropped = True
            break
    assert dropped
    sock.close()
    await pod.client.hello()


async def test_other_users_are_refused(pod: PodUnderTest) -> None:
    """The directory's mode keeps them out; should it not, SO_PEERCRED does."""
    (pod.directory / "monitor.sock").chmod(0o666)
    child = os.fork()
    if child == 0:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.chdir(pod.directory)
        os.setresuid(65534, 65534, 65534)
        try:
            sock.connect("monitor.sock")
            sock.send(protocol.encode(protocol.Hello(), 1)[0])
            os._exit(0 if sock.recv(100) == b"" else 1)
        except (ConnectionResetError, BrokenPipeError):
            os._exit(0)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    await pod.client.hello()
