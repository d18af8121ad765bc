"""Streaming sessions of each contestant in turns: how long a short exec takes over SPDY, and how many bytes a second go through.

The client is raw: it sends ready-made frames of 32 KiB, as client-go does, and only counts what comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.bench.rows import Contestant, life
from tests.cri.client import CALL_SECONDS, container_config
from tests.cri.streams import STDIN, STDOUT, Command, Gone, SpdyClient, SpdyFrames

SESSION, EXEC, FORWARD = "exec session", "MB/s, exec stdin to stdout", "MB/s, port-forward there and back"
FRAME = 1 << 15
BATCH_MEGABYTES = 32
PORT = 7000


async def streaming(contestants: list[Contestant], sessions: int, megabytes: int, rounds: int) -> None:
    lives = [life(each) for each in contestants]
    for each in lives:
        await each.start()
        echo = container_config("echo", ["nc", "-lk", "-p", str(PORT), "-e", "cat"])
        create = cri.CreateContainerRequest(pod_sandbox_id=each.pod, config=echo, sandbox_config=each.config)
        made = await each.contestant.client.runtime.CreateContainer(create, timeout=CALL_SECONDS)
        start = cri.StartContainerRequest(container_id=made.container_id)
        await each.contestant.client.runtime.StartContainer(start, timeout=CALL_SECONDS)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(each.daemon.address)) for each in contestants]
        for turn in range(sessions + 3):
            for each, client in zip(lives, clients, strict=True):
                milliseconds = await asyncio.to_thread(one_session, client, each.container)
                if turn >= 3:
                    each.contestant.note(SESSION, milliseconds)
    for _ in range(rounds):
        for each in lives:
            runtime = each.contestant.client.runtime
            request = cri.ExecRequest(container_id=each.container, cmd=["cat"], stdin=True, stdout=True, stderr=True)
            answer = await runtime.Exec(request, timeout=CALL_SECONDS)
            each.contestant.note(EXEC, await asyncio.to_thread(through_exec, answer.url, megabytes))
        for each in lives:
            wanted = cri.PortForwardRequest(pod_sandbox_id=each.pod, port=[PORT])
            answer = await each.contestant.client.runtime.PortForward(wanted, timeout=CALL_SECONDS)
            each.contestant.note(FORWARD, await asyncio.to_thread(through_port, answer.url, megabytes))
    for each in lives:
        await each.stop()


def one_session(client: Client, container: str) -> float:
    """Return the milliseconds from the call of Exec to the end of the session."""
    begin = time.perf_counter()
    request = cri.ExecRequest(container_id=container, cmd=["echo", "x"], stdout=True, stderr=True)
    url = client.runtime.Exec(request, timeout=CALL_SECONDS).url
    with Command(url) as session:
        with contextlib.suppress(Gone):  # containerd resets its streams instead of ending them
            session.finish()
        milliseconds = (time.perf_counter() - begin) * 1000
        if session.out() != b"x\n":
            raise RuntimeError(f"{url}: {session.out()!r}")
    return milliseconds


def through_exec(url: str, megabytes: int) -> float:
    with Command(url, stdin=True) as session:
        return rate(session, session.streams[STDIN], session.streams[STDOUT], megabytes)


def through_port(url: str, megabytes: int) -> float:
    with SpdyClient(url, "portforward.k8s.io") as session:
        headers = {"port": str(PORT), "requestID": "0"}
        session.frames.open(streamType="error", **headers)
        data = session.frames.open(streamType="data", **headers)
        return rate(session, data, data, megabytes)


def rate(session: SpdyClient, into: int, out: int, megabytes: int) -> float:
    """Send megabytes and take them back; return MB/s from the first byte that comes back to the last."""
    session.sock.setblocking(True)  # the same for who sends
    counter = Counter(session.frames, out)
    buffer = memoryview(bytearray(1 << 20))
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="orlop-bench-") as frames:
        frames.write((struct.pack(">II", into, FRAME) + os.urandom(FRAME)) * (BATCH_MEGABYTES * 32))
        frames.flush()
        # Not this process: what it needs to send would be missing to what it needs to receive.
        again = f'i=0; while [ $i -lt {megabytes // BATCH_MEGABYTES} ]; do cat "$0"; i=$((i+1)); done'
        with subprocess.Popen(["sh", "-c", again, frames.name], stdout=session.sock.fileno()):
            begin = 0.0
            while counter.counted < megabytes << 20:
                count = session.sock.recv_into(buffer)
                if not count:
                    raise RuntimeError(f"the session ended after {counter.counted} bytes")
                begin = begin or time.perf_counter()
                counter.take(buffer[:count])
            seconds = time.perf_counter() - begin
    return (megabytes << 20) / 1e6 / seconds


@dataclass
class Counter:
    """Counts the bytes of one stream without looking at them."""

    frames: SpdyFrames
    stream: int
    counted: int = 0
    head: bytearray = field(default_factory=bytearray)
    left: int = 0
    current: int = 0

    def __post_init__(self) -> None:
        self.take(memoryview(bytes(self.frames._buffer)))

    def take(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self.left:
                step = min(self.left, len(data) - at)
                self.left -= step
                self.counted += step if self.current == self.stream else 0
            else:
                step = min(8 - len(self.head), len(data) - at)
                self.head += data[at : at + step]
                if len(self.head) == 8:
                    self.current, second = struct.unpack(">II", self.head)
                    self.left = second & 0xFFFFFF
                    self.head.clear()
            at += step
