"""Port-forward through the streaming server of a real daemon: into a pod's own network, into the host's, over every carrier."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, pull, sandbox_config
from tests.cri.streams import SpdyClient, SpdyFrames, Tunnel, WebSocket
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri
FORWARD = "portforward.k8s.io"


def forward_url(client, pod: Pod, *ports: int) -> str:
    return client.runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id=pod.id, port=ports), timeout=30).url


def connect(frames: SpdyFrames, port: int, request: str = "0") -> tuple[int, int]:
    """Open the pair of streams of one connection; return (data, error)."""
    error = frames.open(streamType="error", port=str(port), requestID=request)
    frames.send(error, end=True)
    return frames.open(streamType="data", port=str(port), requestID=request), error


@pytest.fixture
def echo(pod: Pod) -> int:
    """The port of a server in the pod that sends back what it gets, once connected to."""
    pod.launch(container_config("echo", ["nc", "-lk", "-p", "7000", "-e", "cat"]))
    until_listening(pod, 7000)
    return 7000


def until_listening(pod: Pod, port: int) -> None:
    containers = pod.client.runtime.ListContainers(cri.ListContainersRequest(), timeout=30).containers
    running = next(each.id for each in containers if each.pod_sandbox_id == pod.id)
    deadline = time.monotonic() + 20
    while f":{port:04X} " not in pod.exec(running, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout.decode():
        assert time.monotonic() < deadline, f"nobody listens on {port}"
        time.sleep(0.02)


def test_bytes_both_ways_and_the_end(client, pod, echo):
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        for request in range(3):
            data, error = connect(frames, echo, str(request))
            frames.send(data, b"hello ")
            frames.until(lambda data=data: frames.data[data] == b"hello ")
            frames.send(data, b"world", end=True)
            frames.until(lambda data=data, error=error: {data, error} <= frames.ended)
            assert frames.data[data] == b"hello world"
            assert frames.data[error] == b""


def test_many_connections_in_one_session(client, pod, echo):
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        pairs = []
        for number in range(50):
            data, error = connect(frames, echo, str(number))
            pairs.append((data, error))
            frames.send(data, b"number ")
            # nc lets hardly anybody wait: the next one only when it has taken this one.
            frames.until(lambda data=data: frames.data[data])
        for number, (data, _) in enumerate(pairs):
            frames.send(data, b"%d" % number, end=True)
        frames.until(lambda: {each for pair in pairs for each in pair} <= frames.ended)
        assert [bytes(frames.data[data]) for data, _ in pairs] == [b"number %d" % number for number in range(50)]


def test_a_port_where_nobody_listens_costs_only_itself(client, pod, echo):
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        data, error = connect(frames, 7999, "a")
        frames.until(lambda: error in frames.ended)
        assert b"port 7999: cannot connect: 127.0.0.1: connection refused; [::1]:" in frames.data[error]
        frames.until(lambda: data in frames.ended or data in frames.reset)
        data, error = connect(frames, echo, "b")
        frames.send(data, b"x", end=True)
        frames.until(lambda: {data, error} <= frames.ended)
        assert frames.data[data] == b"x"


def test_ports_that_are_none(client, pod):
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        for headers in ({"port": "0"}, {"port": "65536"}, {"port": "x"}, {}, {"port": "80", "streamType": "other"}):
            number = frames.open(**{"streamType": "data", "requestID": "1", **headers})
            assert number in frames.reset
        one = frames.open(streamType="data", requestID="2", port="80")
        two = frames.open(streamType="data", requestID="2", port="80")
        frames.until(lambda: {one, two} <= set(frames.reset))


def test_clients_without_request_ids(client, pod, echo):
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        error = frames.open(streamType="error", port=str(echo))
        data = frames.open(streamType="data", port=str(echo))
        frames.send(data, b"old", end=True)
        frames.until(lambda: {data, error} <= frames.ended)
        assert frames.data[data] == b"old"


def test_ipv6_only(client, pod):
    pod.launch(container_config("six", ["nc", "-lk", "-s", "::1", "-p", "7006", "-e", "echo", "six"]))
    until_listening(pod, 7006)
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        data, error = connect(session.frames, 7006)
        session.frames.until(lambda: {data, error} <= session.frames.ended)
        assert session.frames.data[data] == b"six\n"


@pytest.fixture
def host_port() -> Iterator[int]:
    """A server on the host that greets and shows what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"host heard " + connection.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_pod_in_the_hosts_network(client, orlopd, host_port):
    pull(client, BUSYBOX)
    config = sandbox_config()
    config.linux.cgroup_parent = orlopd.cgroup_parent
    config.linux.security_context.namespace_options.network = cri.NODE
    pod = Pod.run(client, config)
    try:
        with SpdyClient(forward_url(client, pod), FORWARD) as session:
            data, error = connect(session.frames, host_port)
            session.frames.send(data, b"you")
            session.frames.until(lambda: {data, error} <= session.frames.ended)
            assert session.frames.data[data] == b"host heard you"
    finally:
        pod.remove()


def test_spdy_in_a_tunnel(client, pod, echo):
    with Tunnel(forward_url(client, pod)) as session:
        assert session.protocol == "SPDY/3.1+portforward.k8s.io"
        data, error = connect(session.frames, echo)
        payload = os.urandom(1 << 20)
        for at in range(0, len(payload), 1 << 15):
            session.frames.send(data, payload[at : at + (1 << 15)])
        session.frames.send(data, end=True)
        session.frames.until(lambda: {data, error} <= session.frames.ended)
        assert session.frames.data[data] == payload


def test_websocket_channels(client, pod, echo):
    with WebSocket(forward_url(client, pod, echo, 7999), "v4.channel.k8s.io") as session:
        for channel, port in ((0, echo), (1, echo), (2, 7999), (3, 7999)):
            session.until(lambda channel=channel, port=port: session.out(channel)[:2] == struct.pack("<H", port))
        session.send(b"\0hello")
        session.until(lambda: session.out(0)[2:] == b"hello")
        session.until(lambda: b"connection refused" in session.out(3))


def test_half_a_gigabyte_arrives_as_it_was_sent(client, pod, echo):
    piece = os.urandom(1 << 15)
    count = 16384
    wanted = hashlib.sha256()
    for _ in range(count):
        wanted.update(piece)
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        frames = session.frames
        data, error = connect(frames, echo)

        def send() -> None:
            frame = struct.pack(">II", data, len(piece)) + piece
            for _ in range(count // 32):
                session.sock.sendall(frame * 32)
            frames.send(data, end=True)

        sending = threading.Thread(target=send)
        sending.start()
        got = hashlib.sha256()
        while data not in frames.ended:
            frames.read_frame()
            got.update(frames.data.pop(data, b""))
        sending.join()
        frames.until(lambda: error in frames.ended)
        assert got.digest() == wanted.digest()


def test_a_receiver_that_does_not_read_costs_little(client, pod, orlopd):
    pod.launch(container_config("deaf", ["sh", "-c", "nc -lk -p 7001 -e sleep 1000"]))
    until_listening(pod, 7001)
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        data, _ = connect(session.frames, 7001)
        session.sock.settimeout(1)
        with open(f"/proc/{orlopd.pid}/statm") as file:
            before = int(file.read().split()[1]) * 4096
        with pytest.raises(TimeoutError):
            for _ in range(10000):
                session.frames.send(data, bytes(1 << 15))
        with open(f"/proc/{orlopd.pid}/statm") as file:
            assert int(file.read().split()[1]) * 4096 - before < 8 << 20


def test_a_connection_that_breaks_is_no_end(client, pod, orlopd):
    script = "nc -lk -p 7002 -e sh -c 'echo part; exec sleep 1000'"
    container = pod.launch(container_config("breaks", ["sh", "-c", script]))
    until_listening(pod, 7002)
    with SpdyClient(forward_url(client, pod), FORWARD) as session:
        data, error = connect(session.frames, 7002)
        session.frames.send(data, b"nobody reads this")
        session.frames.until(lambda: session.frames.data[data] == b"part\n")
        pod.stop_container(container)
        session.frames.until(lambda: error in session.frames.ended and data in session.frames.reset)
        assert data not in session.frames.ended
        assert session.frames.data[error] == b""


def test_what_is_refused_before_there_is_a_url(client, pod):
    with pytest.raises(NotFound):
        client.runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id="0" * 32), timeout=30)
    with pytest.raises(InvalidArgument, match="port 70000"):
        forward_url(client, pod, 70000)
    with pytest.raises(InvalidArgument, match="at most 128"):
        forward_url(client, pod, *range(1, 200))
    pod.stop()
    with pytest.raises(FailedPrecondition, match="not ready"):
        forward_url(client, pod)
