"""A wire between two sockets: whole, in order, held when somebody holds it, and with bounded memory."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from orlop.base import limits
from orlop.streamserver.wire import Wire


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    client.setblocking(False)
    return client, server


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    made = pair()
    yield made
    for each in made:
        each.close()


async def receive(sock: socket.socket, count: int) -> bytes:
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < count:
        piece = await loop.sock_recv(sock, 1 << 16)
        if not piece:
            break
        got += piece
    return bytes(got)


async def settle(true) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_all_that_is_sent_arrives_in_order(sockets):
    client, server = sockets
    wire = Wire(server)
    pieces = [os.urandom(200_000) for _ in range(30)]
    buffer = bytearray(200_000)

    async def produce() -> None:
        for piece in pieces:
            buffer[:] = piece
            wire.send([piece[:5], memoryview(buffer)[5:], b""])
            buffer[:] = bytes(len(buffer))  # what was handed over may be changed
            assert wire._unsent_bytes <= 2 * len(piece)
            await wire.drained()

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        got = group.create_task(receive(client, 6_000_000))
    assert got.result() == b"".join(pieces)
    wire.close()


async def test_who_holds_stops_the_reading(sockets):
    client, server = sockets
    wire, got = Wire(server), bytearray()
    wire.start(got.extend, lambda: None)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"one")
    await settle(lambda: got == b"one")
    wire.hold("a")
    wire.hold("b")
    await loop.sock_sendall(client, b"two")
    wire.release("a")
    await asyncio.sleep(0.05)
    assert got == b"one"
    wire.release("b")
    await settle(lambda: got == b"onetwo")
    wire.close()


async def test_a_client_that_only_sends_is_not_read_while_it_reads_nothing(sockets):
    client, server = sockets
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire = Wire(server)
    wire.start(lambda data: wire.send([bytes(1000) * 50]), lambda: None)
    loop = asyncio.get_running_loop()
    sent = 0
    try:
        async with asyncio.timeout(5):
            while True:
                await loop.sock_sendall(client, bytes(1 << 16))
                sent += 1 << 16
                await asyncio.sleep(0)
                if wire._unsent_bytes > limits.STREAM_READ_BYTES:
                    assert not wire._reading
                    break
    finally:
        assert wire._unsent_bytes <= limits.STREAM_READ_BYTES + 100_000
        wire.close()


async def test_the_end_is_told_once_and_waiters_are_woken(sockets):
    client, server = sockets
    wire, ends = Wire(server), []
    wire.start(lambda _: None, lambda: ends.append(1))
    wire.send([bytes(1 << 24)])
    assert wire.blocked
    waiting = asyncio.ensure_future(wire.drained())
    client.close()
    await asyncio.wait_for(waiting, 20)
    await settle(lambda: ends)
    assert ends == [1]
    wire.send([b"into nothing"])
    wire.close()
    wire.close()


async def test_a_client_that_left_while_it_was_held_is_noticed(sockets):
    client, server = sockets
    wire, ends = Wire(server), []
    wire.start(lambda _: None, lambda: ends.append(1))
    wire.hold("slow receiver")
    assert not wire.is_abandoned()
    client.close()
    await settle(wire.is_abandoned)
    wire.abandon()
    assert ends == [1]
    wire.close()


async def test_finish_comes_behind_what_waits(sockets):
    client, server = sockets
    wire = Wire(server)
    total = 0
    while not wire.blocked:
        wire.send([bytes(1 << 20)])
        total += 1 << 20
    wire.finish()
    assert len(await receive(client, 1 << 40)) == total
    wire.close()


async def test_all_who_wait_get_their_turn(sockets):
    client, server = sockets
    wire, turns = Wire(server), []
    while not wire.blocked:
        wire.send([bytes(1 << 20)])

    def producer(number: int) -> None:
        turns.append(number)
        while not (wire.blocked or wire.closed):
            wire.send([bytes(1 << 20)])
        if len(turns) < 9:
            wire.when_drained(producers[number])

    producers = [lambda number=number: producer(number) for number in range(3)]
    for each in producers:
        wire.when_drained(each)
    reading = asyncio.ensure_future(receive(client, 1 << 40))
    await settle(lambda: len(turns) >= 9)
    assert turns[:9] == [0, 1, 2] * 3
    wire.close()
    await reading
