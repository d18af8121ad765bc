"""Clients of the streaming server that lie, after they were let in: each costs its own session, and nothing else."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from tests.cri.streams import STDIN, STDOUT, Command, SpdyClient, Tunnel, WebSocket, exit_code
from tests.cri.test_port_forward import FORWARD, forward_url
from tests.cri.test_streaming import exec_url, rss, run

pytestmark = pytest.mark.cri


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def unharmed(client, container, orlopd):
    """Afterwards the daemon serves as before and has as many descriptors as before."""
    run(client, container, "true")
    before, memory = descriptors(orlopd.pid), rss(orlopd.pid)
    yield
    assert run(client, container, "echo", "well")[0] == b"well\n"
    deadline = time.monotonic() + 30
    while descriptors(orlopd.pid) > before + 2:
        assert time.monotonic() < deadline, f"{descriptors(orlopd.pid) - before} descriptors more than before"
        time.sleep(0.05)
    assert rss(orlopd.pid) - memory < 32 << 20


def drain(sock: socket.socket) -> bool:
    """Read until the server closes; False when it does not."""
    sock.settimeout(20)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


LIES = {
    "another version": struct.pack(">HHI", 0x8002, 1, 10) + bytes(10),
    "a giant control frame": struct.pack(">HHI", 0x8003, 1, 0xFFFFFF),
    "a short SYN_STREAM": struct.pack(">HHI", 0x8003, 1, 2) + bytes(2),
    "headers that are not zlib": struct.pack(">HHIIIH", 0x8003, 1, 20, 99, 0, 0) + bytes(10),
    "a lying SETTINGS": struct.pack(">HHII", 0x8003, 4, 4, 1 << 31),
    "an even stream": struct.pack(">HHIIIH", 0x8003, 1, 10, 2, 0, 0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_frames_that_lie(client, container, unharmed, lie):
    with Command(exec_url(client, container, "sh", "-c", "cat; sleep 0.1", stdin=True), stdin=True) as session:
        session.write(b"x")
        session.until_out(b"x")
        session.sock.sendall(lie)
        assert drain(session.sock)


def test_noise_in_every_protocol(client, container, pod, unharmed):
    luck = random.Random(4)
    for _ in range(15):
        with Command(exec_url(client, container, "cat", stdin=True), stdin=True) as session:
            noisy(session.sock, luck)
        with SpdyClient(forward_url(client, pod), FORWARD) as forward:
            noisy(forward.sock, luck)
        with WebSocket(exec_url(client, container, "cat", stdin=True), "v5.channel.k8s.io") as socket_:
            noisy(socket_.sock, luck)
        with Tunnel(forward_url(client, pod)) as tunnel:
            tunnel.send(luck.randbytes(200))


def noisy(sock: socket.socket, luck: random.Random) -> None:
    try:
        for _ in range(3):
            sock.sendall(luck.randbytes(luck.randrange(1, 300)))
    except ConnectionError:
        return


def test_pings_without_end_from_one_who_does_not_read(client, container, orlopd, unharmed):
    url = exec_url(client, container, "sleep", "5")
    with Command(url, receive_buffer=4096) as session:
        session.sock.settimeout(1)
        flood = struct.pack(">HHII", 0x8003, 6, 4, 1) * 10000
        before = rss(orlopd.pid)
        try:
            for _ in range(300):
                session.sock.sendall(flood)
        except TimeoutError:
            pass
        assert rss(orlopd.pid) - before < 8 << 20


def test_streams_that_never_come_and_streams_without_end(client, container, pod, unharmed):
    with SpdyClient(exec_url(client, container, "echo", "x"), "v4.channel.k8s.io") as session:
        session.frames.open(streamType="error")
        for kind in ("error", "video", "", "stdin"):
            assert session.frames.open(streamType=kind) in session.frames.reset
    with SpdyClient(forward_url(client, pod), FORWARD) as forward:
        for number in range(3000):
            forward.frames.open(wait=False, streamType="data", port="80", requestID=str(number))
        forward.frames.until(lambda: len(forward.frames.reset) >= 900)


def test_input_for_one_who_does_not_read_is_held_back(client, container, orlopd, unharmed):
    with Command(exec_url(client, container, "sleep", "3", stdin=True), stdin=True) as session:
        session.sock.settimeout(1)
        before = rss(orlopd.pid)
        with pytest.raises(TimeoutError):
            while True:
                session.write(bytes(1 << 16))
        assert rss(orlopd.pid) - before < 8 << 20
        session.sock.settimeout(30)
        assert exit_code(session.finish()) == 0


def test_a_client_that_goes_while_its_input_is_held_back_is_noticed(client, container):
    script = "trap 'echo > /tmp/noticed' EXIT; yes"
    with Command(
        exec_url(client, container, "sh", "-c", script, stdin=True), stdin=True, receive_buffer=4096
    ) as session:
        session.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            while True:
                session.write(bytes(1 << 16))
    deadline = time.monotonic() + 30
    while exit_code(run(client, container, "test", "-e", "/tmp/noticed")[2]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_gigabyte_of_one_session_does_not_stop_the_others(client, container):
    """Bytes arrive as they were sent, and short sessions go on beside them."""
    piece, count = os.urandom(1 << 15), 16384
    with Command(exec_url(client, container, "cat", stdin=True), stdin=True) as session:
        session.frames.dropped = session.streams[STDOUT]
        check = 0

        def send() -> None:
            frame = struct.pack(">II", session.streams[STDIN], len(piece)) + piece
            for _ in range(count // 32):
                session.sock.sendall(frame * 32)
            session.write(b"", end=True)

        def others() -> None:
            while not over.is_set():
                assert run(client, container, "echo", "x")[0] == b"x\n"
                served.append(1)

        served: list[int] = []
        over = threading.Event()
        threads = [threading.Thread(target=send), threading.Thread(target=others)]
        for each in threads:
            each.start()
        try:
            status = session.finish()
        finally:
            over.set()
            for each in threads:
                each.join()
        assert exit_code(status) == 0
        check = sum(length for number, length, _ in session.frames.order if number == session.streams[STDOUT])
        assert check == len(piece) * count
        assert len(served) > 3


def test_the_log_names_what_was_wrong(client, container, orlopd):
    with Command(exec_url(client, container, "cat", stdin=True), stdin=True) as session:
        session.sock.sendall(LIES["another version"])
        assert drain(session.sock)
    assert (
        f"container {container}: exec: SPDY: a control frame of version 2, not 3" in Path(orlopd.log_path).read_text()
    )
