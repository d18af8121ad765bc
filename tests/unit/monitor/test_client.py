"""The client's side of a connection, against the other end of a socket pair: what comes late, wrong, or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from orlop.base import limits
from orlop.base.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from orlop.monitor import protocol
from orlop.monitor.client import Exited, MonitorClient, MonitorError, Oom, plan_memfd


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


Ends = tuple[socket.socket, socket.socket]


def send(sock: socket.socket, message: protocol.Message, seq: int = 0) -> None:
    data, fds = protocol.encode(message, seq)
    socket.send_fds(sock, [data], fds)


async def request(sock: socket.socket) -> tuple[int, protocol.Message]:
    await asyncio.sleep(0)
    data, fds, _, _ = socket.recv_fds(sock, limits.MONITOR_MESSAGE_BYTES, limits.MONITOR_FDS)
    seq, message = protocol.decode(data, fds)
    for fd in fds:
        os.close(fd)
    return seq, message


def exited(name: str) -> protocol.Exited:
    return protocol.Exited(id=name, pid=1, exit_code=0, signal=0, oom_killed=0, finished_ns=1, is_exec=0, timed_out=0)


async def test_replies_find_their_requests(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    first = asyncio.ensure_future(client.kill("a", 9))
    second = asyncio.ensure_future(client.start("b"))
    seq_a, message_a = await request(ends[1])
    seq_b, message_b = await request(ends[1])
    assert (message_a, message_b) == (protocol.Kill(id="a", signal=9, all=0), protocol.Start(id="b"))
    send(ends[1], protocol.Started(started_ns=77), seq_b)
    send(ends[1], protocol.Error(errnum=1, op="kill", op_index=0xFFFFFFFF, detail="a"), seq_a)
    assert await second == 77
    with pytest.raises(MonitorError, match="sandbox pod: kill: a: operation not permitted") as caught:
        await first
    assert caught.value.op_index is None
    client.close()


async def test_events_wait_for_their_listener_and_keep_their_order(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    send(ends[1], exited("a"))
    send(ends[1], protocol.Oom(id="b", count=2))
    while client.statistics()["events"] < 2:
        await asyncio.sleep(0)
    events: list[Exited | Oom] = []
    client.on_event = events.append
    assert [event.id for event in events] == ["a", "b"]
    assert isinstance(events[0], Exited)
    assert events[0].oom_killed is False
    client.close()


async def test_a_reply_that_nobody_waits_for_leaks_no_fd(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONITOR_REPLY_SECONDS", 0.01)
    client = MonitorClient("pod", ends[0])
    with pytest.raises(DeadlineExceeded, match=r"monitor did not answer kept_fd within 0\.01 seconds"):
        await client.kept_fd("x")
    seq, _ = await request(ends[1])
    reading, writing = os.pipe()
    send(ends[1], protocol.Fd(fd=writing), seq)
    os.close(writing)
    os.set_blocking(reading, False)
    async with asyncio.timeout(5):
        while True:
            try:
                assert os.read(reading, 1) == b""
                break
            except BlockingIOError:
                await asyncio.sleep(0)
    os.close(reading)
    client.close()


async def test_losing_the_monitor_fails_what_waits_and_is_told_once(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    told: list[int] = []
    client.on_lost = lambda: told.append(1)
    waiting = asyncio.ensure_future(client.start("a"))
    await request(ends[1])
    send(ends[1], exited("a"))
    ends[1].close()
    with pytest.raises(Unavailable, match="sandbox pod: monitor has ended the connection"):
        await waiting
    with pytest.raises(Unavailable):
        await client.hello()
    assert told == [1]
    assert client.statistics()["events"] == 1
    client.close()
    assert told == [1]


async def test_close_is_not_a_loss(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    client.on_lost = lambda: pytest.fail("closed, not lost")
    waiting = asyncio.ensure_future(client.start("a"))
    await request(ends[1])
    client.close()
    client.close()
    with pytest.raises(Unavailable, match="is closed"):
        await waiting


async def test_a_monitor_that_is_none_of_ours_is_left(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    waiting = asyncio.ensure_future(client.hello())
    await request(ends[1])
    ends[1].send(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(Internal, match="monitor message: magic"):
        await waiting
    assert client.lost is not None


async def test_another_reply_than_expected(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    waiting = asyncio.ensure_future(client.start("a"))
    seq, _ = await request(ends[1])
    reading, writing = os.pipe()
    send(ends[1], protocol.Fd(fd=writing), seq)
    os.close(writing)
    with pytest.raises(Internal, match="answered start with fd"):
        await waiting
    assert os.read(reading, 1) == b""
    os.close(reading)
    client.close()


async def test_requests_beyond_the_sockets_buffer_wait_their_turn(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    names = [f"{i:03}" + "x" * 30_000 for i in range(40)]
    waiting = [asyncio.ensure_future(client.remove(name)) for name in names]
    await asyncio.sleep(0)
    assert client.statistics()["unsent"] > 0
    for name in names:
        seq, message = await request(ends[1])
        assert message == protocol.Remove(id=name)
        send(ends[1], protocol.Ok(), seq)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    client.close()


async def test_a_cancelled_request_is_forgotten(ends: Ends) -> None:
    client = MonitorClient("pod", ends[0])
    waiting = asyncio.ensure_future(client.start("a"))
    seq, _ = await request(ends[1])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    send(ends[1], protocol.Started(started_ns=1), seq)
    again = asyncio.ensure_future(client.start("b"))
    seq, _ = await request(ends[1])
    send(ends[1], protocol.Started(started_ns=2), seq)
    assert await again == 2
    client.close()


def test_a_plan_is_sealed_and_bounded() -> None:
    fd = plan_memfd(b"plan")
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.truncate(fd, 1)
    os.close(fd)
    with pytest.raises(ResourceExhausted, match="plan: 8388609 bytes, limit 8388608"):
        plan_memfd(b"x" * (limits.PLAN_BYTES + 1))
