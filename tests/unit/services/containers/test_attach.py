"""AttachSession against the monitor's end of its sockets: what it keeps, when it stops reading, how it ends."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from orlop.base import limits
from orlop.services.containers.attach import AttachSession

MONITOR_H = Path(__file__).resolve().parents[4] / "native/monitor.h"


@pytest.fixture
async def ends() -> tuple[AttachSession, socket.socket]:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    return AttachSession(ours, None), theirs


async def collect(session: AttachSession) -> list[tuple[int, bytes]]:
    return [chunk async for chunk in session.output()]


def test_the_monitors_limit_is_the_one_that_is_written_down() -> None:
    found = re.search(r"#define BACKLOG_MAX \((\d+)u << 20\)", MONITOR_H.read_text())
    assert found is not None
    assert int(found[1]) << 20 == limits.ATTACH_BACKLOG_BYTES


async def test_a_caller_that_does_not_read_holds_little_and_gets_all(
    ends: tuple[AttachSession, socket.socket],
) -> None:
    session, monitor = ends
    packet = b"\1" + b"x" * 16384
    total = 8 * limits.ATTACH_KEPT_BYTES // len(packet)
    sent = 0

    async def send_rest() -> None:
        nonlocal sent
        while sent < total:
            await asyncio.get_running_loop().sock_sendall(monitor, packet)
            sent += 1
        monitor.close()

    sending = asyncio.create_task(send_rest())
    await asyncio.sleep(0.05)
    stopped_at = sent
    await asyncio.sleep(0.05)
    assert sent == stopped_at < total  # nobody takes it any more: it is the monitor's to keep
    assert session._kept <= limits.ATTACH_KEPT_BYTES + len(packet)
    got = await collect(session)
    await sending
    assert b"".join(data for _, data in got) == b"x" * 16384 * total
    assert not session.fell_behind
    session.close()


async def test_who_is_let_go_gets_what_came_before(ends: tuple[AttachSession, socket.socket]) -> None:
    session, monitor = ends
    for packet in (b"\1out", b"\2err", b"\3too slow"):
        monitor.send(packet)
    monitor.close()
    assert await collect(session) == [(1, b"out"), (2, b"err")]
    assert session.fell_behind
    session.close()
