"""Pumps between a wire and pipes: whole, bounded, ended once."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Iterator

import pytest
from tests.unit.streamserver.test_wire import pair, receive, settle

from orlop.streamserver.pumps import (
    AFTER_EXIT_BYTES,
    WIDE_AFTER_BYTES,
    WIDE_PIPE_BYTES,
    WIDE_PIPES,
    Inflow,
    Outflow,
    Widening,
)
from orlop.streamserver.wire import Wire


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    made = pair()
    yield made
    for each in made:
        each.close()


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    for each in ends:
        os.set_blocking(each, False)
    yield ends
    for each in ends:
        if each >= 0:
            os.close(each)


def close(pipe: list[int], at: int) -> None:
    os.close(pipe[at])
    pipe[at] = -1


async def test_output_to_the_end_of_file(sockets, pipe):
    client, server = sockets
    wire = Wire(server)
    flow = Outflow(pipe[0], wire, room=lambda: 1 << 30, frame=lambda data: [b"%8d" % len(data), data])
    os.write(pipe[1], b"abc")
    assert await receive(client, 11) == b"       3abc"
    close(pipe, 1)
    await asyncio.wait_for(flow.ended.wait(), 20)
    assert (flow.total, flow.error) == (3, 0)
    wire.close()


async def test_output_waits_for_the_client_and_for_its_window(sockets, pipe):
    client, server = sockets
    wire, room = Wire(server), [2]
    flow = Outflow(pipe[0], wire, room=lambda: room[0], frame=lambda data: [data])
    os.write(pipe[1], b"abcd")
    await settle(lambda: flow.total == 4)  # two and two: the window never shrinks here
    room[0] = 0
    os.write(pipe[1], b"ef")
    await settle(lambda: flow.waits)
    room[0] = 10
    flow.resume()
    assert await receive(client, 6) == b"abcdef"
    while not wire.blocked:
        wire.send([bytes(1 << 20)])
    os.write(pipe[1], b"later")
    await settle(lambda: flow.waits)
    assert flow.total == 6
    flow.stop()
    wire.close()


async def test_after_its_writers_end_output_is_limited(sockets, pipe):
    client, server = sockets
    wire = Wire(server)
    flow = Outflow(pipe[0], wire, room=lambda: 1 << 30, frame=lambda data: [data])
    flow.limit()
    loop = asyncio.get_running_loop()

    def write() -> None:
        try:
            os.write(pipe[1], bytes(65536))
        except BlockingIOError:
            return

    loop.add_writer(pipe[1], write)
    reading = asyncio.ensure_future(receive(client, 1 << 40))
    await asyncio.wait_for(flow.ended.wait(), 20)
    loop.remove_writer(pipe[1])
    assert flow.total == AFTER_EXIT_BYTES
    wire.close()
    assert len(await reading) == AFTER_EXIT_BYTES


async def test_input_holds_the_wire_while_it_does_not_fit(sockets, pipe):
    client, server = sockets
    wire = Wire(server)
    entry = Inflow(pipe[1], wire, write=lambda parts: os.writev(pipe[1], parts))
    wire.start(entry.take, lambda: None)
    loop = asyncio.get_running_loop()
    data = os.urandom(3_000_000)
    sending = asyncio.ensure_future(loop.sock_sendall(client, data))
    await settle(lambda: entry.kept)
    assert not wire._reading
    ended = []
    got = bytearray()
    while len(got) < len(data):
        try:
            got += os.read(pipe[0], 1 << 16)
        except BlockingIOError:
            await asyncio.sleep(0.001)
        assert entry.kept <= 1 << 18
    await sending
    assert got == data
    entry.end(lambda: ended.append(1))
    assert ended == [1]
    entry.stop()
    wire.close()


async def test_the_end_of_input_comes_behind_the_input(sockets, pipe):
    _, server = sockets
    wire, ended = Wire(server), []
    entry = Inflow(pipe[1], wire, write=lambda parts: os.writev(pipe[1], parts))
    entry.take(bytes(100_000))
    entry.end(lambda: ended.append(1))
    await asyncio.sleep(0.01)
    assert not ended
    got = 0
    while got < 100_000:
        try:
            got += len(os.read(pipe[0], 1 << 16))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await settle(lambda: ended)
    entry.stop()
    wire.close()


async def test_input_for_nobody_is_dropped(sockets, pipe):
    _, server = sockets
    wire = Wire(server)
    entry = Inflow(pipe[1], wire, write=lambda parts: os.writev(pipe[1], parts))
    close(pipe, 0)
    entry.take(b"x")
    entry.take(bytes(10_000_000))
    assert entry.kept == 0
    entry.stop()
    nothing = Inflow(-1, wire, write=lambda parts: 0)
    nothing.take(b"x")
    wire.close()


async def test_a_pipe_of_many_bytes_is_widened_but_only_so_many_are(sockets):
    _, server = sockets
    wire = Wire(server)
    made = [os.pipe() for _ in range(WIDE_PIPES + 1)]
    try:
        flows = [Inflow(writing, wire, write=lambda parts: len(parts[0])) for _, writing in made]
        for flow in flows:
            flow.take(bytes(WIDE_AFTER_BYTES))
        sizes = [fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) for _, writing in made]
        assert sizes == [WIDE_PIPE_BYTES] * WIDE_PIPES + [65536]
        flows[0].stop()
        flows[-1].take(b"x")
        assert fcntl.fcntl(made[-1][1], fcntl.F_GETPIPE_SZ) == WIDE_PIPE_BYTES
        for flow in flows:
            flow.stop()
        assert Widening._used == 0
    finally:
        for each in made:
            os.close(each[0])
            os.close(each[1])
        wire.close()
